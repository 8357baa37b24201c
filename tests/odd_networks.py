"""Small networks that do something unusual on the way from pixels to scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from small_networks import CLASSES, Network


class Twice(nn.Module):
    """One block, called twice with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.block = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.act(self.stem(pixels))
        hidden = self.act(self.block(hidden))
        hidden = self.act(self.block(hidden))
        return self.fc(hidden.mean(dim=(2, 3)))


class Odd(nn.Module):
    """Has a branch and a module that nothing reads, and answers in any form."""

    def __init__(self, answer: Callable[[Tensor], Any] = lambda scores: scores) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU(inplace=True))
        self.unused = nn.Conv2d(6, 6, 1)
        self.branch = nn.Conv2d(6, 6, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, CLASSES)
        self.answer = answer

    def forward(self, pixels: Tensor) -> Any:
        hidden = self.features(pixels)
        self.branch(hidden)
        return self.answer(self.fc(self.pool(hidden).flatten(1)))


class Pair(nn.Module):
    """A trunk that gives a tuple, as detectors' trunks do."""

    def __init__(self, kind: type = tuple) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 6, 3, stride=4, padding=1)

    def forward(self, pixels: Tensor) -> Any:
        return self.kind([self.conv(pixels) * 2, pixels])


class Paired(nn.Module):
    def __init__(self, kind: type = tuple) -> None:
        super().__init__()
        self.trunk = Pair(kind)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.trunk(pixels)[0].mean(dim=(2, 3)))


class Frozen(nn.Module):
    """A trunk that is run without gradients, as in transfer learning."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.neck = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.trunk(pixels)
        return self.fc(self.neck(hidden).mean(dim=(2, 3)))


class Added(nn.Module):
    """The last convolution's output is added to what it read, outside any module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.last = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.stem(pixels)
        return self.fc((hidden + self.last(hidden)).mean(dim=(2, 3)))


class Latents(nn.Module):
    """Sixteen learned tokens attend to the whole picture: as many as a grid of 4 x 4, and none at a position."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 4, stride=4)
        self.embedding = nn.Parameter(torch.zeros(64, 8))  # one a position, so one size only
        self.latents = nn.Parameter(torch.zeros(16, 8))
        self.gather = nn.MultiheadAttention(8, 1, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8 * 16, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.trunk(pixels).flatten(2).transpose(1, 2) + self.embedding
        gathered, _ = self.gather(self.latents.expand(len(pixels), -1, -1), tokens, tokens)
        return self.fc(self.norm(gathered).flatten(1))


class Turned(nn.Module):
    """Swaps rows and columns on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 4, stride=4)
        self.turned = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.turned(self.trunk(pixels).transpose(2, 3)).mean(dim=(2, 3)))


class Sideways(nn.Module):
    """Channels last, in a network that takes any size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.norm(self.stem(pixels).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


def flat() -> nn.Module:
    """A network for one picture size only: its head is a linear layer on every position."""
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout())
    return Network(features, nn.Sequential(nn.Flatten(), nn.Linear(8 * 49, CLASSES)))


def convolutional() -> nn.Module:
    """No linear layer: the last convolution gives one map a class."""
    return Network(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
