"""Tails of linear layers, and tails that look like them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from small_networks import CLASSES, Small, tokens
from tails import POOL, Called, in_layout, tailed


def hidden(*between: nn.Module, width: int = 12) -> Small:
    return tailed(*POOL, nn.Linear(6, width), *between, nn.Linear(width, CLASSES))


def reads(positions: int, *before: nn.Module) -> Small:
    """Two linear layers that read ``positions`` of each channel."""
    return tailed(*before, nn.Flatten(), nn.Linear(6 * positions, 12), nn.ReLU(), nn.Linear(12, CLASSES))


def vgg(positions: int, *before: nn.Module) -> Small:
    layers = (nn.Linear(6 * positions, 12), nn.ReLU(True), nn.Dropout(), nn.Linear(12, 10), nn.ReLU(True), nn.Dropout())
    return tailed(*before, nn.Flatten(), *layers, nn.Linear(10, CLASSES))


class InParts(nn.Module):
    """Passes two pictures at a time through its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES))

    def forward(self, means: Tensor) -> Tensor:
        return torch.cat([self.head(part) for part in means.split(2)])


class Pair(nn.Module):
    """Two linear layers of one width, and what is done with them."""

    def __init__(self, run: Callable[[nn.Module, nn.Module, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, CLASSES)
        self.run = run

    def forward(self, means: Tensor) -> Tensor:
        return self.run(self.first, self.last, means)


def tied() -> Small:
    """One weight for two layers, each a module of its own."""
    small = tailed(*POOL, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    small.network[5].weight = small.network[3].weight
    return small


def with_decoys() -> Small:
    """Layers and parameters of the right shapes that the scores do not come from."""
    small = hidden(nn.ReLU())
    small.network.register_parameter("decoy", nn.Parameter(torch.randn(CLASSES, 6)))
    decoys = copy.deepcopy(small.network[2:])
    small.network[2] = Called(lambda values: (decoys(values * 2), values.flatten(1))[1])
    small.network[2].decoys = decoys
    return small


FUNCTIONS: Mapping[str, Callable[[], Small]] = {
    "ReLU": lambda: hidden(nn.ReLU()),
    "ReLU in place, dropout": lambda: hidden(nn.ReLU(inplace=True), nn.Dropout()),
    "ReLU6": lambda: hidden(nn.ReLU6()),
    "Hardswish in place": lambda: hidden(nn.Hardswish(inplace=True), width=600),
    "SiLU": lambda: hidden(nn.SiLU(), width=6),
    "GELU": lambda: hidden(nn.GELU()),
    "tanh": lambda: hidden(nn.Tanh()),
}
FORMS: Mapping[str, Callable[[], Small]] = {
    **FUNCTIONS,
    "one linear layer": lambda: tailed(*POOL, nn.Linear(6, CLASSES)),
    "no bias": lambda: tailed(*POOL, nn.Linear(6, 12, bias=False), nn.ReLU(), nn.Linear(12, CLASSES, bias=False)),
    "1x1 convolutions": lambda: tailed(
        POOL[0], nn.Conv2d(6, 12, 1), nn.Hardswish(inplace=True), nn.Conv2d(12, CLASSES, 1), nn.Flatten()
    ),
    "three linear layers": lambda: hidden(nn.ReLU(), nn.Linear(12, 12), nn.GELU()),
    "one weight for two layers": tied,
    "decoys": with_decoys,
    "a batch in parts": lambda: tailed(*POOL, InParts()),
    "every position, one linear layer": lambda: tailed(nn.Flatten(), nn.Linear(96, CLASSES)),
    "every position, two linear layers": lambda: reads(16),
    "every position, three linear layers": lambda: vgg(16),
    "maximum pooling, one linear layer": lambda: tailed(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)),
    "maximum pooling, two linear layers": lambda: reads(4, nn.MaxPool2d(2), nn.Identity()),
    "maximum pooling, three linear layers": lambda: vgg(4, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Dropout()),
    "overlapping maximum pooling": lambda: reads(4, nn.MaxPool2d(3, stride=2, padding=1)),
    "maximum pooling over the border": lambda: reads(4, nn.MaxPool2d(3, stride=2, ceil_mode=True)),
    "average pooling": lambda: reads(4, nn.AvgPool2d(2)),
    "average pooling with a border that does not count": lambda: reads(
        4, nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
    ),
    "average pooling over the border": lambda: reads(4, nn.AvgPool2d(3, stride=2, ceil_mode=True)),
    "average pooling to a size, with overlaps": lambda: reads(9, nn.AdaptiveAvgPool2d(3)),
    "channels last": lambda: in_layout(
        "NHWC", Called(lambda values: values.mean(dim=(1, 2))), nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, CLASSES)
    ),
    "channels last, turned for pooling": lambda: in_layout(
        "NHWC",
        Called(lambda values: values.permute(0, 3, 1, 2)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 12), nn.SiLU(), nn.Linear(12, CLASSES)),
    ),
    "tokens": lambda: in_layout(
        "NLC", Called(lambda values: values.mean(dim=1)), nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, CLASSES)
    ),
}


class TwoWeights(nn.Module):
    """One module that is two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.zeros(12, 6)), nn.Parameter(torch.zeros(CLASSES, 12))

    def forward(self, means: Tensor) -> Tensor:
        return (means @ self.weight.T).relu() @ self.other.T


class Unowned(nn.Module):
    """A linear layer whose output no module gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(12, 6)), nn.Parameter(torch.zeros(12))

    def forward(self, means: Tensor) -> Tensor:
        return nn.functional.linear(means, self.weight, self.bias).relu()


def enlarged(function: nn.Module, width: int = 12) -> Small:
    """A hidden layer of large values, far from where functions differ."""
    small = hidden(function, width=width)
    small.network[3].weight.data *= 30
    return small


def seldom(function: nn.Module) -> Small:
    """A function that is ReLU for all values that few units get from random pictures."""
    small = hidden(function, width=4)
    small.network[3].bias.data.copy_(torch.tensor([9.0, -9.0, 9.0, -9.0]))
    return small


NO_FORMS: Mapping[str, Callable[[], Small]] = {
    "another function": lambda: hidden(nn.LeakyReLU()),
    "almost ReLU": lambda: hidden(nn.LeakyReLU(3e-5)),
    "other bounds": lambda: hidden(nn.Hardtanh(0, 5)),
    "an approximation": lambda: hidden(nn.GELU("tanh")),
    "an approximation of large values": lambda: enlarged(nn.GELU("tanh"), width=256),
    "almost ReLU, of large values": lambda: enlarged(nn.Softplus(20)),
    "ReLU for values of random pictures": lambda: seldom(nn.Threshold(0.5, 0.0)),
    "two functions": lambda: hidden(nn.ReLU(), nn.Tanh()),
    "normalised": lambda: hidden(nn.LayerNorm(12), nn.ReLU()),
    "a hidden layer that nobody owns": lambda: tailed(*POOL, Unowned(), nn.Linear(12, CLASSES)),
    "two layers in one module": lambda: tailed(*POOL, TwoWeights()),
    "maximum of all positions": lambda: reads(1, nn.AdaptiveMaxPool2d(1)),
    "more layers than are followed": lambda: hidden(*[nn.ReLU(), nn.Linear(12, 12)] * 3, nn.ReLU()),
    "average pooling with a border that counts": lambda: reads(4, nn.AvgPool2d(3, stride=2, padding=1)),
    "average pooling with another divisor": lambda: reads(4, nn.AvgPool2d(2, divisor_override=3)),
    "two poolings": lambda: reads(1, nn.MaxPool2d(2), nn.AvgPool2d(2)),
    "ReLU before pooling": lambda: reads(4, nn.ReLU(), nn.MaxPool2d(2)),
    "a clamp from above that no picture reaches": lambda: reads(16, Called(lambda values: values.clamp(max=50))),
    "large activations are dropped": lambda: reads(16, Called(lambda values: values * (values < 50))),
    "positions that count differently": lambda: reads(
        1, Called(lambda values: values * torch.linspace(0.99, 1.01, 16).view(4, 4)), nn.AdaptiveAvgPool2d(1)
    ),
    "a skip connection around the hidden layer": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu() + means))
    ),
    "a skip connection for large values": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu() + (means - 20).relu()))
    ),
    "a second branch for large values": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu()) + (means.amax(1, keepdim=True) - 20).relu())
    ),
    "a second branch for peaks": lambda: reads(
        1,
        Called(
            lambda values: (
                values.mean((2, 3), keepdim=True)
                + (values.amax((2, 3), keepdim=True) - 15 * values.clamp(min=0).mean((2, 3), keepdim=True)).relu()
            )
        ),
    ),
    "a layer that runs twice": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(first(means).relu()).relu()))
    ),
    "a last layer that runs twice": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(last(first(means).tanh()).relu()), width=CLASSES)
    ),
    "channels last, every position": lambda: in_layout("NHWC", nn.Flatten(), nn.Linear(96, CLASSES)),
    "a class token": tokens,
}
# Right or refused: a form that is not found costs time, and nothing else.
MAYBE: Mapping[str, Callable[[], Small]] = {
    "pooling that gives places too": lambda: reads(
        4, nn.MaxPool2d(2, return_indices=True), Called(lambda pair: pair[0])
    ),
    "a hidden layer whose input is overwritten": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last((first(means), means.zero_())[0].relu()))
    ),
    "a hidden layer whose output is overwritten": lambda: tailed(
        *POOL, Pair(lambda first, last, means: (last((kept := first(means)).relu()), kept.zero_())[0])
    ),
    "pictures one by one": lambda: tailed(
        *POOL, Pair(lambda first, last, means: torch.cat([last(first(part).relu()) for part in means.split(1)]))
    ),
    "a branch that adds nothing": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu() + 0 * means.sum(1, keepdim=True)))
    ),
}
