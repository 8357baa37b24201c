"""Speed is never bought with another answer: every precision agrees with float32 on real photos."""

import copy
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from camserve.build.unpack import read_contents
from camserve.errors import ConfigError
from camserve.fast.fold import fold
from camserve.fast.packing import PackedWeight, pack, packable
from camserve.fast.prepare import prepare
from camserve.fast.split import example
from camserve.network.output import ScoringNetwork
from camserve.serving.load import load_pipeline
from camserve.settings import RuntimeSpec
from camserve.values import Layer, RawRequest
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
    return ScoringNetwork(settle(network)).eval().requires_grad_(False)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("mobilenet_v2", 52), ("densenet121", 59), ("vgg11", 0)])
def test_normalisation_is_folded_into_the_convolution_before_it(name, count):
    network = frozen(getattr(torchvision.models, name)(num_classes=5))
    expected = network(pictures(3))
    assert fold(network, [], example((SIDE, SIDE), torch.float32, CPU)) == count
    assert float((network(pictures(3)) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert not any(each.requires_grad for each in network.parameters())
    assert not any(each.training for each in network.modules())


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


def test_normalisation_that_is_not_folded_keeps_its_numbers_in_a_shorter_precision():
    network = frozen(torchvision.models.resnet18(num_classes=5))
    kept = network.classifier.bn1.running_var.clone()
    prepare(network, RuntimeSpec(mode="aot", precision="bf16"), (Layer("layer4"),), (SIDE, SIDE))
    assert network.classifier.conv1.weight.dtype == torch.bfloat16
    assert torch.equal(network.classifier.bn1.running_var, kept)


NETWORKS = ["resnet18", "mobilenet_v2", "densenet121", "vgg11", "convnext_tiny", "efficientnet_b0"]


@pytest.mark.parametrize("name", NETWORKS)
def test_packing_weights_changes_no_score(name):
    network = frozen(getattr(torchvision.models, name)(num_classes=5))
    expected = [network(pictures(count)) for count in (1, 2, 9)]
    biases = packable(network, (), pictures(2))
    assert pack(network, biases, pictures(2)) == len(biases) > 0
    for scores, count in zip(expected, (1, 2, 9)):
        assert torch.allclose(network(pictures(count)), scores, rtol=0, atol=1e-6 * float(scores.abs().max()))


class SamePadding(nn.Conv2d):
    """A convolution that is no nn.Conv2d, as networks from TensorFlow have it."""

    def forward(self, pixels):
        return nn.functional.conv2d(nn.functional.pad(pixels, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


def test_weights_are_packed_whatever_module_holds_them():
    network = frozen(nn.Sequential(SamePadding(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    expected = network(pictures(2))
    assert pack(network, packable(network, (Layer("1"),), pictures(2)), pictures(2)) == 1
    assert isinstance(network.classifier[0].weight, PackedWeight)
    assert torch.allclose(network(pictures(2)), expected, atol=1e-6)


def test_packed_weights_have_a_gradient_and_can_be_read():
    conv = nn.Conv2d(8, 16, 3, 2, 1, groups=2).requires_grad_(False)
    pixels = torch.randn(2, 8, 9, 9)
    expected, weight = conv(pixels), conv.weight.clone()
    (gradient,) = torch.autograd.grad(conv(watched := pixels.clone().requires_grad_()).square().sum(), watched)
    conv.weight = PackedWeight(conv.weight.detach(), conv.bias)
    assert torch.allclose(conv(pixels), expected, atol=1e-6)
    assert torch.equal(conv.weight + 0, weight)
    assert torch.equal(conv.state_dict()["weight"], weight)
    assert torch.equal(copy.deepcopy(conv).weight.data, weight)
    assert type(copy.deepcopy(conv).weight) is nn.Parameter
    (found,) = torch.autograd.grad(conv(watched := pixels.clone().requires_grad_()).square().sum(), watched)
    assert torch.equal(found, gradient)


def test_what_gradients_pass_is_not_packed():
    network = frozen(torchvision.models.resnet18(num_classes=5))
    names = packable(network, (Layer("layer4.0"), Layer("layer4")), pictures(2))
    assert len(names) == 18
    assert not [name for name in names if name.startswith("layer4.1")]


def test_where_packing_changes_the_scores_nothing_is_packed():
    network = frozen(torchvision.models.resnet18(num_classes=5))
    fold(network, [], pictures(2))
    weight = network.classifier.conv1.weight
    biases = packable(network, (), pictures(2))
    for wrong in ({**biases, "conv1.weight": biases["conv1.weight"] + 9}, dict.fromkeys(biases, torch.zeros(1))):
        assert pack(network, wrong, pictures(2)) == 0
        assert network.classifier.conv1.weight is weight


def test_a_shorter_precision_keeps_the_biases_that_normalisation_left():
    network = frozen(torchvision.models.resnet18(num_classes=5))
    fold(reference := copy.deepcopy(network), [], pictures(2))
    prepare(network, RuntimeSpec(precision="bf16"), (Layer("layer4"),), (SIDE, SIDE))
    conv, was = network.classifier.conv1, reference.classifier.conv1
    assert isinstance(conv.weight, PackedWeight)
    assert conv.weight.dtype == torch.bfloat16
    pixels = pictures(2).bfloat16()
    exact, rounded = (
        nn.functional.conv2d(pixels.float(), was.weight.bfloat16().float(), bias, 2, 3).bfloat16()
        for bias in (was.bias, was.bias.bfloat16().float())
    )
    assert (conv(pixels) == exact).float().mean() > 0.99
    assert (conv(pixels) == rounded).float().mean() < 0.9
