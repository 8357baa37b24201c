"""Speed is never bought with another answer: every precision agrees with float32 on real photos."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from camserve.classifier import prepare
from camserve.errors import ConfigError
from camserve.fold import fold
from camserve.pipeline import load_pipeline
from camserve.scores import Scores
from camserve.settings import RuntimeSpec
from camserve.split import example
from camserve.unpack import read_contents
from camserve.values import RawRequest
from small_networks import SIDE, pictures, settle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ask(imagenet, tmp_path_factory, coffee, chelsea):
    folder = tmp_path_factory.mktemp("runtime")
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(folder)
    settings = read_contents(imagenet).settings

    def ask(**runtime):
        changed = replace(settings, runtime=RuntimeSpec(**runtime))
        pipeline = load_pipeline(folder, changed, "imagenet", "1.0", CPU)
        return [json.loads(each.body) for each in pipeline.answer([RawRequest(coffee), RawRequest(chelsea)])]

    return ask


@pytest.mark.parametrize(
    ("runtime", "probability", "correlation"),
    [
        ({"channels_last": False}, 1e-4, 0.99999),
        ({"precision": "bf16"}, 0.03, 0.99),
    ],
)
def test_another_runtime_gives_the_same_classes_and_maps(ask, runtime, probability, correlation):
    for plain, other in zip(ask(), ask(**runtime), strict=True):
        assert other["predictions"][0]["index"] == plain["predictions"][0]["index"]
        assert other["predictions"][0]["probability"] == pytest.approx(
            plain["predictions"][0]["probability"], abs=probability
        )
        grids = [np.array(told["explanations"][0]["grid"]).ravel() for told in (plain, other)]
        assert np.corrcoef(*grids)[0, 1] > correlation


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'fp16'"):
        RuntimeSpec(precision="f16")


def frozen(network):
    return Scores(settle(network)).eval().requires_grad_(False)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("mobilenet_v2", 52), ("densenet121", 59), ("vgg11", 0)])
def test_normalisation_is_folded_into_the_convolution_before_it(name, count):
    network = frozen(getattr(torchvision.models, name)(num_classes=5))
    expected = network(pictures(3))
    assert fold(network, [], example((SIDE, SIDE), torch.float32, CPU)) == count
    assert float((network(pictures(3)) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert not any(each.requires_grad for each in network.parameters())


class Shared(nn.Module):
    """The convolution's own output is needed too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, pixels):
        made = self.conv(pixels)
        return self.head((made + self.norm(made)).mean((2, 3)))


def test_a_network_that_folding_would_change_stays_as_it_is():
    network = frozen(Shared())
    expected, norm = network(pictures(3)), network.classifier.norm
    assert fold(network, [], example((SIDE, SIDE), torch.float32, CPU)) == 0
    assert network.classifier.norm is norm
    assert torch.equal(network(pictures(3)), expected)


def test_a_target_layer_keeps_its_output():
    network = frozen(torchvision.models.resnet18(num_classes=5))
    assert fold(network, ["layer4.1.conv2"], example((SIDE, SIDE), torch.float32, CPU)) == 19


def test_normalisation_keeps_its_numbers_in_a_shorter_precision():
    network = frozen(torchvision.models.resnet18(num_classes=5))
    kept = network.classifier.bn1.running_var.clone()
    prepare(network, RuntimeSpec(precision="bf16"), ["layer4"], (SIDE, SIDE))
    assert network.classifier.conv1.weight.dtype == torch.bfloat16
    assert torch.equal(network.classifier.bn1.running_var, kept)
