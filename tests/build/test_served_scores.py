"""What an archive answers, compared with the network itself as its owner runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive
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
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, 2))
        self.head = nn.Linear(6, CLASSES)
        self.last = nn.Softmax(dim=1)

    def forward(self, x):
        scores = self.head(self.features(x).relu().mean((2, 3))) * 6
        return END
"""
ENDINGS = {
    "a module": (4, "self.last(scores)", {}),
    "a function": (4, "functional.softmax(scores, dim=-1)", {}),
    "log-softmax": (4, "scores.log_softmax(1)", {}),
    "none": (4, "scores", {}),
    "sigmoids": (4, "torch.sigmoid(scores)", {"task": "multilabel"}),
    "one sigmoid": (1, "scores.sigmoid().squeeze(1)", {"task": "binary"}),
    "a pair": (4, "(self.features(x).flatten(1), scores.softmax(1))", {"output": {"select": "1"}}),
}


def network_of(classes, end):
    scope = {}
    exec(NET.replace("CLASSES", str(classes)).replace("END", end), scope)
    return settle(scope["Net"]())


def build(folder, classes, end, recipe):
    (folder / "net.py").write_text(NET.replace("CLASSES", str(classes)).replace("END", end))
    torch.save(network_of(classes, end).state_dict(), folder / "net.pt")
    block = {
        "name": "net",
        "factory": "Net",
        "model_file": "net.py",
        "weights": "net.pt",
        "preprocess": {"resize": 64, "crop": 64},
        "samples": ["package://skimage/data/chelsea.png"],
        "methods": ["gradcam", "hirescam"],
        **recipe,
    }
    (folder / "net.yaml").write_text(json.dumps(block))
    return build_archive(load_recipe(folder / "net.yaml"), folder, quiet, fresh_process=False)


def own_probabilities(name, returned):
    values = returned[1] if isinstance(returned, tuple) else returned
    if name == "log-softmax":
        return values.exp()
    if name == "one sigmoid":
        return torch.stack([1 - values, values], dim=1)
    return values.softmax(1) if name == "none" else values


@pytest.mark.parametrize("name", ENDINGS)
def test_probabilities_are_the_networks_own_and_maps_those_of_the_score_before(name, tmp_path, coffee, chelsea):
    classes, end, recipe = ENDINGS[name]
    shown = max(classes, 2)
    fields = {"explain": True, "target": ",".join(map(str, range(shown))), "top_k": str(shown)}
    with open_archive(build(tmp_path, classes, end, recipe)) as pipeline:
        responses = pipeline.answer([RawRequest(photo, fields) for photo in (coffee, chelsea)])
        spec = pipeline.settings.input
    answers = [json.loads(response.body) for response in responses]
    pixels = normalise(
        [resize_and_crop(decode(photo, Limits()), spec)[0] for photo in (coffee, chelsea)], spec, torch.device("cpu")
    ).contiguous()
    probabilities = own_probabilities(name, network_of(classes, end)(pixels)).detach()
    plain = network_of(classes, "scores")
    for row, answer in enumerate(answers):
        for prediction in answer["predictions"]:
            assert prediction["probability"] == pytest.approx(float(probabilities[row, prediction["index"]]), abs=1e-5)
        for explanation in answer["explanations"]:
            index = explanation["target"]["index"]
            sign = -1 if classes == 1 and index == 0 else 1
            expected = gradcam_by_hand(plain, pixels[row : row + 1], index if classes > 1 else 0, sign)
            found = np.array(explanation["grid"]) * explanation["scale"]
            assert np.abs(found - expected).max() <= 1e-4 * max(expected.max(), 1e-9)


def gradcam_by_hand(network, pixels, index, sign):
    hidden = network.features(pixels).detach().requires_grad_()
    score = sign * network.head(hidden.relu().mean((2, 3)))[0, index] * 6
    (gradient,) = torch.autograd.grad(score, hidden)
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * hidden).sum(dim=1).clamp(min=0)[0].detach().numpy()
