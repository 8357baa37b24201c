"""Average pooling and one linear layer as all that follows a layer: what CAM and ``share_of_score`` rest on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from camserve.attribution.objectives import Objectives


@dataclass(frozen=True)
class LinearHead:
    """scores = weight . mean(activation) + bias."""

    weight: Tensor  # (C, K) float32
    bias: Tensor  # (C,) float32
    residual: float = 0.0  # completeness: the largest |scores - closed form| over the largest |score|, as probed

    def scores(self, activations: Tensor) -> Tensor:
        """Return the scores (N, C) of activations (N, K, h, w)."""
        return activations.mean(dim=(2, 3)) @ self.weight.T + self.bias

    def channel_weights(self, objectives: Objectives) -> Tensor:
        """Return the weighted sum (T, K) of the classifier's own weights that each objective asks for."""
        return objectives.combine(self.weight)
