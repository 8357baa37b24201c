"""Layer outputs whose maps can be worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camserve.attribution.capture import Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.values import Layer
from small_networks import SHAPE, Small, watch

ACTIVATION = [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 8.0], [0.0, 0.0]], [[4.0, 0.0], [0.0, 4.0]]]
WEIGHTS = [[1.0, 2.0, -1.0], [-1.0, -1.0, -1.0]]
FIRST = Objectives((0,), (((0, 1.0),),), 2, torch.device("cpu"))  # the first of two classes


def linear_output(weights: list[list[float]], activation: list[list[list[float]]], bias: float = 0.0) -> LayerOutput:
    """Pooling and a linear layer with these weights, and this activation (K, h, w) as their input."""
    pixels = torch.tensor([activation])
    linear = nn.Linear(pixels.shape[1], len(weights))
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weights))
        linear.bias.fill_(bias)
    return watch_first(nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear), pixels)


def watch_first(network: nn.Module, pixels: Tensor) -> LayerOutput:
    """The first module's output in a network that takes these ``pixels``, (1, K, h, w) of any size."""
    return watch(Small(network.eval(), Layer("0")), pixels, tape=True)


def observe(small: Small, pixels: Tensor) -> LayerOutput:
    """The layer's output of a small network, with its linear head if it has one."""
    return watch(small, pixels, Tail(find_linear_head(small.network, small.layer, SHAPE)), tape=True)
