"""The network that a card is about: from RGB pictures to scores and feature maps, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camserve.attribution.grid import on_grid
from camserve.errors import BadOption, ConfigError
from camserve.input_spec import InputSpec
from camserve.labels import Labels
from camserve.network.hooks import calls_of
from camserve.network.output import ScoringNetwork
from camserve.values import Layer


@dataclass(frozen=True)
class Subject:
    """A network, frozen, and one of its layers."""

    network: ScoringNetwork
    spec: InputSpec
    labels: Labels
    layer: Layer
    device: torch.device

    def __post_init__(self) -> None:
        """ConfigError: its input cannot be made from RGB by ``mean`` and ``std`` alone."""
        if self.spec.transform is not None or self.spec.normalise != "fixed" or self.spec.color not in ("rgb", "bgr"):
            raise ConfigError(
                "a card needs an input of three colours by fixed mean and std: not transform, normalise: image or grey"
            )

    @property
    def channel_count(self) -> int:
        """How many channels the layer has."""
        with torch.no_grad():
            return self.look(torch.full((1, 3, *self.spec.size), 0.5))[1].shape[1]

    def pixels(self, pictures: Tensor) -> Tensor:
        """Return the network's input from RGB pictures (N, 3, H, W), 0..1."""
        values = pictures.to(self.device) * self.spec.scale
        values = values.flip(1) if self.spec.color == "bgr" else values
        mean, std = (
            torch.tensor(numbers, device=self.device)[:, None, None] for numbers in (self.spec.mean, self.spec.std)
        )
        return (values - mean) / std

    def look(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (N, C) and the layer's feature maps (N, K, h, w) of RGB pictures (N, 3, H, W), 0..1."""
        with calls_of({self.layer.name: self.network.get_submodule(self.layer.name)}) as calls:
            scores = self.network(self.pixels(pictures))
        if len(calls) <= self.layer.call:
            raise ConfigError(f"layer '{self.layer.name}' does not run")
        return scores, on_grid(calls[self.layer.call].output, self.layer)

    def check_channels(self, channels: Sequence[int]) -> None:
        """Refuse channels that the layer does not have (BadOption)."""
        count = self.channel_count
        for channel in channels:
            if not 0 <= channel < count:
                raise BadOption(f"layer '{self.layer.name}' has channels 0 to {count - 1}, not {channel}")
