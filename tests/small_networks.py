"""Networks small enough to be checked by hand, one of each kind that the methods tell apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from camserve.values import Layer

SIDE = 32  # pixels
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


def tokens() -> Small:
    """A vision transformer with a class token."""
    network = torchvision.models.VisionTransformer(
        image_size=SIDE, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )
    return Small(settle(network), Layer("encoder.layers.encoder_layer_1", "NLC", prefix=1, grid=(4, 4)))


def pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
