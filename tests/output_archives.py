"""Archives of one tiny network that returns whatever an expression makes of its six scores and its features."""

import json

import torch

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.intake.decode import decode
from camserve.intake.preprocess import normalise, resize_and_crop
from camserve.settings import Limits
from camserve.values import RawRequest
from model_file import quiet
from small_networks import settle

NET = """
import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 6, 3, 2))
        self.head = nn.Linear(6, 6)

    def forward(self, x):
        features = self.features(x).relu()
        scores = self.head(features.mean((2, 3))) * 6
        return END
"""


def network_of(end):
    scope = {}
    exec(NET.replace("END", end), scope)
    return settle(scope["Net"]())


def build_outputs(folder, end, report=quiet, more_code="", **recipe):
    """Build an archive of the network that returns the expression ``end``; ``recipe`` says more of it."""
    (folder / "net.py").write_text(NET.replace("END", end) + more_code)
    torch.save(network_of(end).state_dict(), folder / "net.pt")
    block = {
        "name": "net",
        "factory": "Net",
        "model_file": "net.py",
        "weights": "net.pt",
        "preprocess": {"resize": [64, 64], "crop": None},
        **recipe,
    }
    (folder / "net.yaml").write_text(json.dumps(block))
    return build_archive(load_recipe(folder / "net.yaml"), folder, report, fresh_process=False)


def ask(pipeline, *bodies, **fields):
    """Return the JSON answers to pictures, in one batch; a list in ``fields`` holds one value for each, None: none."""
    rows = []
    for number, body in enumerate(bodies):
        own = {name: value[number] if isinstance(value, list) else value for name, value in fields.items()}
        rows.append(RawRequest(body, {name: value for name, value in own.items() if value is not None}))
    return [json.loads(response.body) for response in pipeline.answer(rows)]


def pixels_of(body, spec):
    """What the network is shown of a picture, (1, 3, H, W)."""
    return normalise([resize_and_crop(decode(body, Limits()), spec)[0]], spec, torch.device("cpu")).contiguous()


def gradcam_by_hand(network, pixels, weights):
    """Grad-CAM, at the convolution, of the weighted sum of the six scores whose weights are given by index."""
    hidden = network.features(pixels).detach().requires_grad_()
    scores = network.head(hidden.relu().mean((2, 3)))[0] * 6
    (gradient,) = torch.autograd.grad(sum(weight * scores[index] for index, weight in weights.items()), hidden)
    return (gradient.mean((2, 3), keepdim=True) * hidden).sum(1).clamp(min=0)[0].detach().numpy()
