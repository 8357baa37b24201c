"""Average pooling and one linear layer are found by running the network, and nothing else is taken for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from camserve.attribution.find_head import find_linear_head
from camserve.attribution.linear_head import LinearHead
from camserve.values import Layer
from small_networks import CLASSES, SHAPE, Small, deep, distance, objectives_for, pictures, settle, tokens, watch
from tails import POOL, Called, in_layout, tailed


class Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def linear() -> nn.Module:
    return nn.Linear(6, CLASSES)


HEADS: Mapping[str, Callable[[], Small]] = {
    "pooling, linear": lambda: tailed(*POOL, linear()),
    "pooling, dropout, linear": lambda: tailed(*POOL, nn.Dropout(), linear()),
    "1x1 convolution, pooling": lambda: tailed(nn.Conv2d(6, CLASSES, 1), *POOL),
    "no bias": lambda: tailed(*POOL, nn.Linear(6, CLASSES, bias=False)),
    "as many channels as classes": lambda: tailed(*POOL, nn.Linear(CLASSES, CLASSES), channels=CLASSES),
    "channels last": lambda: in_layout("NHWC", Called(lambda values: values.mean(dim=(1, 2))), linear()),
    "tokens": lambda: in_layout("NLC", Called(lambda values: values.mean(dim=1)), linear()),
}
NO_HEADS: Mapping[str, Callable[[], Small]] = {
    "ReLU": lambda: tailed(nn.ReLU(), *POOL, linear()),
    "in-place ReLU": lambda: tailed(nn.ReLU(inplace=True), *POOL, linear()),
    "a clamp that no picture reaches": lambda: tailed(nn.Hardtanh(-50, 50), *POOL, linear()),
    "a clamp from above that no picture reaches": lambda: tailed(
        Called(lambda values: values.clamp(max=50)), *POOL, linear()
    ),
    "large activations are dropped": lambda: tailed(Called(lambda values: values * (values < 50)), *POOL, linear()),
    "large means count twice": lambda: tailed(*POOL, Called(lambda means: means + (means - 20).relu()), linear()),
    "peaks count twice": lambda: tailed(
        Called(
            lambda values: values.mean((2, 3)) + (values.amax((2, 3)) - 15 * values.clamp(min=0).mean((2, 3))).relu()
        ),
        linear(),
    ),
    "layer normalisation": lambda: tailed(Norm(6), *POOL, linear()),
    "layer normalisation after pooling": lambda: tailed(*POOL, nn.LayerNorm(6), linear()),
    "maximum pooling": lambda: tailed(nn.AdaptiveMaxPool2d(1), nn.Flatten(), linear()),
    "no pooling": lambda: tailed(nn.Flatten(), nn.Linear(96, CLASSES)),
    "pooling of a part": lambda: tailed(nn.MaxPool2d(1, stride=2), *POOL, linear()),
    "positions that count differently": lambda: tailed(
        Called(lambda values: values * torch.linspace(0.99, 1.01, 16).view(4, 4)), *POOL, linear()
    ),
    "two linear layers": lambda: tailed(*POOL, nn.Linear(6, 6), linear()),
    "a hidden layer": lambda: tailed(*POOL, nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, CLASSES)),
    "softmax": lambda: tailed(*POOL, linear(), nn.Softmax(dim=1)),
    "more after the layer": deep,
    "a class token": tokens,
}


def find(small: Small) -> LinearHead | None:
    return find_linear_head(small.network, small.layer, SHAPE)


def test_a_head_is_found_by_running_the_network(subtests: pytest.Subtests) -> None:
    for name, build in HEADS.items():
        with subtests.test(name):
            small, objectives = build(), objectives_for((2, 1), (0, 3))
            head = find(small)
            assert head is not None
            assert head.residual < 1e-6
            output = watch(small, pictures())
            assert distance(head.scores(output.activations), output.scores) < 1e-6
            positions = output.activations[0, 0].numel()
            assert distance(head.channel_weights(objectives) / positions, output.mean_gradients(objectives)) < 1e-6


def test_anything_else_is_not_taken_for_a_head(subtests: pytest.Subtests) -> None:
    for name, build in NO_HEADS.items():
        with subtests.test(name):
            assert find(build()) is None


def test_a_decoy_of_the_right_shape_is_not_taken_for_the_weight() -> None:
    small = HEADS["pooling, linear"]()
    small.network.register_parameter("decoy", nn.Parameter(torch.randn(CLASSES, 6)))
    head = find(small)
    assert head is not None
    assert torch.equal(head.weight, small.network[3].weight)


def test_a_head_is_found_behind_its_own_layer_alone() -> None:
    network = settle(nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU(), *POOL, linear()))
    assert find(Small(network, Layer("1"))) is not None
    assert find(Small(network, Layer("0"))) is None
