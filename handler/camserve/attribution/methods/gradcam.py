"""Grad-CAM, whole and in its two halves."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.capture import Seen
from camserve.values import Targets


def gradcam(seen: Seen, targets: Targets) -> Tensor:
    """Weigh each channel by its mean gradient (Selvaraju et al. 2017, equations 1 and 2, before the ReLU)."""
    return weigh(channel_weights(seen, targets), seen, targets)


def gradcam_plus(seen: Seen, targets: Targets) -> Tensor:
    """Grad-CAM of the channels whose weight is positive; ``gradcam`` is this and ``gradcam_minus`` added."""
    return weigh(channel_weights(seen, targets).clamp(min=0), seen, targets)


def gradcam_minus(seen: Seen, targets: Targets) -> Tensor:
    """Grad-CAM of the channels whose weight is negative: what is positive here is negative activation."""
    return weigh(channel_weights(seen, targets).clamp(max=0), seen, targets)


def channel_weights(seen: Seen, targets: Targets) -> Tensor:
    """Return the mean gradient of each channel, (T, K)."""
    return seen.mean_gradients(targets)


def weigh(weights: Tensor, seen: Seen, targets: Targets) -> Tensor:
    """Return the sum over channels of weights (T, K) times activation, (T, h, w)."""
    # Where each row has equally many targets none of its activations is copied.
    grouped = targets.per_row(len(seen.activations)) > 0
    shown = seen.activations if grouped else seen.activations[targets.rows]
    by_row = weights.view(len(shown), -1, weights.shape[1])
    return torch.bmm(by_row, shown.flatten(2)).view(len(weights), *shown.shape[2:])
