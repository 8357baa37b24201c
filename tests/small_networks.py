"""Networks small enough to be checked by hand, one of each kind that the methods tell apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn

from camserve.attribution.capture import Capture, Tail
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.values import Layer

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_cuda)])

SIDE = 32  # pixels
SHAPE = (3, SIDE, SIDE)  # of the networks' input
CLASSES = 5


class Small(NamedTuple):
    network: nn.Module
    layer: Layer


class Network(nn.Module):
    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(self.features(pixels))


def settle(network: nn.Module) -> nn.Module:
    """Fill every parameter with small random numbers, always the same, and every statistic too."""
    generator = torch.Generator().manual_seed(7)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator)
            width = value[0].numel() ** -0.5 if value.ndim > 1 else 0.3
            value.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn * width)
    return network.eval()


def pooled(channels: int = 6) -> Small:
    """Average pooling and one linear layer: the tail has a closed form."""
    features = nn.Sequential(nn.Conv2d(3, channels, 3, stride=4), nn.ReLU(inplace=True))
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    return Small(settle(Network(features, classifier)), Layer("features"))


def deep() -> Small:
    """Batch normalisation before the layer, and two linear layers with an in-place ReLU after it."""
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
    )
    classifier = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 16), nn.ReLU(True), nn.Linear(16, CLASSES))
    return Small(settle(Network(features, classifier)), Layer("features"))


def smooth() -> Small:
    """SiLU, so that activations of both signs reach the layer; no ReLU anywhere."""
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.SiLU())
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    return Small(settle(Network(features, classifier)), Layer("features"))


def two_linear() -> Small:
    """Average pooling and two linear layers, as MobileNetV3 ends."""
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.Hardswish())
    classifier = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 16),
        nn.Hardswish(True),
        nn.Dropout(),
        nn.Linear(16, CLASSES),
    )
    return Small(settle(Network(features, classifier)), Layer("features"))


def three_linear() -> Small:
    """Three linear layers that read every position, as VGG ends."""
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(True))
    hidden = (nn.Linear(128, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 12), nn.ReLU(True), nn.Dropout())
    classifier = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(4), nn.Flatten(), *hidden, nn.Linear(12, CLASSES))
    return Small(settle(Network(features, classifier)), Layer("features"))


def tokens() -> Small:
    """A vision transformer with a class token."""
    network = torchvision.models.VisionTransformer(
        image_size=SIDE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )
    return Small(settle(network), Layer("encoder.layers.encoder_layer_0", "NLC", prefix=1, grid=(4, 4)))


NETWORKS: Mapping[str, Callable[[], Small]] = {
    "average pooling, one linear layer": pooled,
    "maximum pooling, two linear layers": deep,
    "SiLU, one linear layer": smooth,
    "average pooling, two linear layers": two_linear,
    "maximum pooling, three linear layers": three_linear,
    "class token": tokens,
}


def pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def watch(small: Small, pixels: Tensor, tail: Tail | None = None, tape: bool = False) -> LayerOutput:
    """The layer's output in one forward pass."""
    with Capture(small.network, (small.layer,), {small.layer.name: tail or Tail()}) as capture:
        (output,) = capture.forward(pixels, tape)
    return output


def objectives_for(*pairs: tuple[int, int], sign: float = 1.0) -> Objectives:
    """One objective for each (row, class)."""
    rows, classes = zip(*pairs)
    return Objectives.weighing(rows, sign * torch.eye(CLASSES)[list(classes)])


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value that was expected."""
    assert found.shape == expected.shape
    largest = float(expected.abs().max())
    return float((found - expected).abs().max()) / largest if largest > 0 else float(found.abs().max())
