"""Grad-CAM, whole and in its two halves."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives


def gradcam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each channel by its mean gradient (Selvaraju et al. 2017, equations 1 and 2, before the ReLU)."""
    return weigh(channel_weights(output, objectives), output, objectives)


def gradcam_plus(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Grad-CAM of the channels whose weight is positive; ``gradcam`` is this and ``gradcam_minus`` added."""
    return weigh(positive_weights(output, objectives), output, objectives)


def gradcam_minus(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Grad-CAM of the channels whose weight is negative: what is positive here is negative activation."""
    return weigh(negative_weights(output, objectives), output, objectives)


def channel_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the mean gradient of each channel, (T, K)."""
    return output.mean_gradients(objectives)


def positive_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return what is above 0 of ``channel_weights``."""
    return channel_weights(output, objectives).clamp(min=0)


def negative_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return what is below 0 of ``channel_weights``."""
    return channel_weights(output, objectives).clamp(max=0)


def weigh(weights: Tensor, output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the sum over channels of weights (T, K) times activation, (T, h, w)."""
    # Where each row has equally many objectives none of its activations is copied.
    grouped = objectives.per_row(len(output.activations)) > 0
    activations = output.activations if grouped else output.activations[objectives.row_index]
    by_row = weights.view(len(activations), -1, weights.shape[1])
    return torch.bmm(by_row, activations.flatten(2)).view(len(weights), *activations.shape[2:])
