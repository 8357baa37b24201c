"""Recipro-CAM, for feature maps and for tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from camserve.attribution.capture import Seen
from camserve.errors import ConfigError
from camserve.values import Targets

# What one position's mask keeps of the positions around it (Byun and Lee 2023, arXiv:2310.02588).
GAUSSIAN = ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16))


def reciprocam(seen: Seen, targets: Targets) -> Tensor:
    """Score each position by itself, all others set to zero (Byun and Lee 2022, arXiv:2209.14074).

    What the tail makes of no activation at all is taken off, so that zero means no evidence; the
    paper's min-max scaling hides that constant.
    """
    return _masked(seen, targets, torch.ones(1, 1))


def vit_reciprocam(seen: Seen, targets: Targets) -> Tensor:
    """Score each patch token with its neighbours, all others set to zero and prefix tokens kept.

    Byun and Lee 2023, arXiv:2310.02588, with the zero of ``reciprocam``. ConfigError: the layer
    holds no tokens.
    """
    if seen.layer.layout != "NLC":
        raise ConfigError(f"method 'vit_reciprocam' reads tokens and '{seen.layer.name}' has none; use 'reciprocam'")
    return _masked(seen, targets, torch.tensor(GAUSSIAN))


def _masked(seen: Seen, targets: Targets, kernel: Tensor) -> Tensor:
    height, width = seen.activations.shape[2:]
    nothing = seen.targeted(targets, seen.rescore(torch.zeros_like(seen.activations)))
    positions = torch.eye(height * width).reshape(-1, 1, height, width)
    masks = functional.conv2d(positions, kernel[None, None], padding=kernel.shape[0] // 2)
    scores = [seen.targeted(targets, seen.rescore(seen.activations * mask)) for mask in masks.to(seen.activations)]
    return (torch.stack(scores, dim=1) - nothing[:, None]).reshape(-1, height, width)
