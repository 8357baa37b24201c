"""Speed is never bought with another answer: every precision agrees with float32 on real photos."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from architectures import convnext, densenet, efficientnet, mobilenet, resnet, vgg
from camserve.build.mar.unpack import read_contents
from camserve.errors import ConfigError
from camserve.fast.export import example
from camserve.fast.fold import fold
from camserve.fast.packing import PackedWeight, can_pack, pack, packable
from camserve.fast.prepare import rewrite
from camserve.network.output import ScoringNetwork
from camserve.serving.load import load_pipeline
from camserve.settings import RuntimeSpec
from camserve.values import Layer, RawRequest
from small_networks import CLASSES, SHAPE, distance, pictures, settle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def answers(imagenet, tmp_path_factory, coffee, chelsea) -> Callable[..., list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runtime")
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(folder)
    settings = read_contents(imagenet).settings

    def answers(**runtime: Any) -> list[dict[str, Any]]:
        changed = replace(settings, runtime=RuntimeSpec(**runtime))
        pipeline = load_pipeline(folder, changed, "imagenet", "1.0", CPU)
        return [json.loads(response.body) for response in pipeline.answer([RawRequest(coffee), RawRequest(chelsea)])]

    return answers


class Agreement(NamedTuple):
    probability: float
    correlation: float  # of the maps


RUNTIMES: Mapping[str, tuple[dict[str, Any], Agreement]] = {
    "pixels apart": ({"channels_last": False}, Agreement(1e-4, 0.99999)),
    "bfloat16": ({"precision": "bf16"}, Agreement(0.03, 0.99)),
}


def test_another_runtime_gives_the_same_classes_and_maps(answers, subtests: pytest.Subtests) -> None:
    usual = answers()
    for name, (runtime, least) in RUNTIMES.items():
        for plain, other in zip(usual, answers(**runtime), strict=True):
            with subtests.test(name):
                first, second = (answer["predictions"][0] for answer in (plain, other))
                assert second["index"] == first["index"]
                assert second["probability"] == pytest.approx(first["probability"], abs=least.probability)
                grids = [np.array(answer["explanations"][0]["grid"]).ravel() for answer in (plain, other)]
                assert np.corrcoef(*grids)[0, 1] > least.correlation


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fp16'"):
        RuntimeSpec(precision="f16")


def frozen(network: nn.Module) -> ScoringNetwork:
    return ScoringNetwork(settle(network)).eval().requires_grad_(False)


FOLDED = {resnet: 14, mobilenet: 52, densenet: 4, vgg: 0}


def test_normalisation_is_folded_into_the_convolution_before_it(subtests: pytest.Subtests) -> None:
    for build, count in FOLDED.items():
        with subtests.test(build.__name__):
            network = frozen(build())
            expected = network(pictures())
            assert fold(network, [], example(SHAPE, torch.float32, CPU)) == count
            assert distance(network(pictures()), expected) <= 1e-4
            assert not any(parameter.requires_grad for parameter in network.parameters())
            assert not any(module.training for module in network.modules())


class Shared(nn.Module):
    """The convolution's own output is needed too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4), nn.Linear(4, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        made = self.conv(pixels)
        return self.head((made + self.norm(made)).mean((2, 3)))


def test_a_network_that_folding_would_change_stays_as_it_is() -> None:
    network = frozen(Shared())
    expected, norm = network(pictures()), network.classifier.norm
    assert fold(network, [], example(SHAPE, torch.float32, CPU)) == 0
    assert network.classifier.norm is norm
    assert torch.equal(network(pictures()), expected)


def test_a_target_layer_keeps_its_output() -> None:
    network = frozen(resnet())
    assert fold(network, ["layer4.1.conv2"], example(SHAPE, torch.float32, CPU)) == FOLDED[resnet] - 1


def test_normalisation_that_is_not_folded_keeps_its_numbers_in_a_shorter_precision() -> None:
    network = frozen(resnet())
    kept = network.classifier.bn1.running_var.clone()
    rewrite(network, (Layer("layer4"),), SHAPE, RuntimeSpec(precision="bf16", channels_last=False))
    assert network.classifier.conv1.weight.dtype == torch.bfloat16
    assert torch.equal(network.classifier.bn1.running_var, kept)


def test_packing_weights_changes_no_score(subtests: pytest.Subtests) -> None:
    for build in (resnet, mobilenet, densenet, vgg, convnext, efficientnet):
        with subtests.test(build.__name__):
            network = frozen(build())
            expected = {count: network(pictures(count)) for count in (1, 2, 9)}
            biases = packable(network, (), pictures(2))
            assert pack(network, biases, pictures(2)) == len(biases) > 0
            for count, scores in expected.items():
                assert distance(network(pictures(count)), scores) <= 2e-6, count


class SamePadding(nn.Conv2d):
    """A convolution that is no nn.Conv2d, as networks from TensorFlow have it."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.pad(pixels, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


def test_weights_are_packed_whatever_module_holds_them() -> None:
    network = frozen(nn.Sequential(SamePadding(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    expected = network(pictures(2))
    assert pack(network, packable(network, (Layer("1"),), pictures(2)), pictures(2)) == 1
    assert isinstance(network.classifier[0].weight, PackedWeight)
    assert torch.allclose(network(pictures(2)), expected, atol=1e-6)


def test_packed_weights_have_a_gradient_and_can_be_read() -> None:
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


def test_what_gradients_pass_is_not_packed() -> None:
    names = packable(frozen(resnet()), (Layer("layer4.0"), Layer("layer4")), pictures(2))
    assert len(names) == 12
    assert not [name for name in names if name.startswith("layer4.1")]


def test_where_packing_changes_the_scores_nothing_is_packed() -> None:
    network = frozen(resnet())
    fold(network, [], pictures(2))
    weight = network.classifier.conv1.weight
    biases = packable(network, (), pictures(2))
    for wrong in ({**biases, "conv1.weight": biases["conv1.weight"] + 9}, dict.fromkeys(biases, torch.zeros(1))):
        assert pack(network, wrong, pictures(2)) == 0
        assert network.classifier.conv1.weight is weight


def test_a_shorter_precision_rounds_no_bias_that_normalisation_leaves() -> None:
    network = frozen(resnet())
    fold(reference := copy.deepcopy(network), [], pictures(2))
    unfolded = copy.deepcopy(network.classifier)
    rewrite(network, (Layer("layer4"),), SHAPE, RuntimeSpec(precision="bf16"))
    conv, norm = network.classifier.conv1, network.classifier.bn1
    pixels = pictures(2).bfloat16()
    assert conv.weight.dtype == torch.bfloat16
    if can_pack(torch.bfloat16, CPU):
        assert isinstance(conv.weight, PackedWeight)
        assert isinstance(norm, nn.Identity)
        folded = reference.classifier.conv1
        exact, rounded = (
            nn.functional.conv2d(pixels.float(), folded.weight.bfloat16().float(), bias, 2, 3).bfloat16()
            for bias in (folded.bias, folded.bias.bfloat16().float())
        )
        assert (conv(pixels) == exact).float().mean() > 0.99
        assert (conv(pixels) == rounded).float().mean() < 0.9
    else:  # without packing a folded bias would be rounded with its weight, so normalisation stays, in float32
        assert conv.bias is None
        assert torch.equal(conv.weight, unfolded.conv1.weight.bfloat16())
        kept = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        numbers = [module for module in unfolded.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(kept) == FOLDED[resnet]
        for one, other in zip(kept, numbers, strict=True):
            for name, value in other.state_dict().items():
                assert torch.equal(one.state_dict()[name], value)
