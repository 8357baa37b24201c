"""What may follow a layer: parts that networks end in."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from camserve.values import Layer
from small_networks import Small, settle

POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def tailed(*tail: nn.Module, channels: int = 6) -> Small:
    """A layer that gives (N, channels, 4, 4), none of it below 0, and these modules after it."""
    features = nn.Sequential(nn.Conv2d(3, channels, 8, stride=8), nn.ReLU())
    return Small(settle(nn.Sequential(features, *tail)), Layer("0"))


def in_layout(layout: str, *tail: nn.Module) -> Small:
    """The same, its output laid out as (N, 4, 4, channels) or as tokens (N, 16, channels)."""
    turn = Called(lambda values: values.permute(0, 2, 3, 1) if layout == "NHWC" else values.flatten(2).transpose(1, 2))
    features = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU(), turn)
    return Small(settle(nn.Sequential(features, *tail)), Layer("0", layout, grid=(4, 4)))
