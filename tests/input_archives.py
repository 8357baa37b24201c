"""Archives of tiny networks whose scores are what they were shown: the means of their channels, and more."""

import json
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import Recipe
from camserve.input_spec import InputSpec
from camserve.values import RawRequest

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.features = nn.Conv2d(channels, max(channels, 2), 1, bias=False)
        nn.init.eye_(self.features.weight[:, :, 0, 0])
        self.features.requires_grad_(False)
        self.head = nn.Linear(max(channels, 2), max(channels, 2))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))
"""


def build_means(folder, more_code="", methods=(), sign=1, **preprocess):
    """Build an archive whose scores are the means of the network's input channels; a second one of zero at least.

    Their ``sign`` may be -1.
    """
    spec = InputSpec(**{"resize": 16, "crop": 16, **preprocess})
    (folder / "net.py").write_text(NET + more_code)
    scope = {}
    exec(NET, scope)
    network = scope["Net"](spec.channels)
    torch.nn.init.eye_(network.head.weight)
    network.head.weight.data *= sign
    torch.nn.init.zeros_(network.head.bias)
    torch.save(network.state_dict(), folder / "net.pt")
    recipe = Recipe(
        "means",
        str(folder / "net.pt"),
        factory="Net",
        args={"channels": spec.channels},
        model_file=str(folder / "net.py"),
        preprocess=spec,
        methods=methods,
    )
    return build_archive(recipe, folder, lambda line: None, fresh_process=False)


def ramp():
    """A colour picture (24, 24, 3) whose channels differ everywhere."""
    rows, columns = np.mgrid[:24, :24]
    return np.stack([rows * 10, columns * 5 + 20, 255 - rows * 4], axis=2).astype(np.uint8)


def encode(array, kind="PNG", **options):
    buffer = BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, kind, **options)
    return buffer.getvalue()


def ask(archive, *bodies, **fields):
    """Return the JSON answers of an archive to pictures, in one batch."""
    with open_archive(archive) as pipeline:
        rows = [RawRequest(body, {"explain": "false", "top_k": "99", **fields}) for body in bodies]
        return [json.loads(response.body) for response in pipeline.answer(rows)]


def scores(answer):
    """Return the scores of an answer by class index."""
    return [entry["score"] for entry in sorted(answer["predictions"], key=lambda entry: entry["index"])]
