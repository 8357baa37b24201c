"""A classifier as a person has it: a file of model code."""

import torch

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))
"""


def quiet(_line):
    pass


def write_pets(folder):
    """Write that file, its weights, its labels and a recipe, and return the recipe's path."""
    scope = {}
    exec(NET, scope)
    torch.manual_seed(3)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    (folder / "net.py").write_text(NET)
    (folder / "labels.txt").write_text("cat\ndog\nbird\n")
    (folder / "pets.yaml").write_text(
        "name: pets\nfactory: Net\nmodel_file: net.py\nweights: net.pt\nlabels: labels.txt\n"
        "preprocess: {resize: 64, crop: 64}\nsamples: ['package://skimage/data/chelsea.png']\n"
        "bundle: [efficientnet_lite_pytorch]\n"
    )
    return folder / "pets.yaml"
