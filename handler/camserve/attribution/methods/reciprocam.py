"""Recipro-CAM, for feature maps and for tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError

# What one position's mask keeps of the positions around it (Byun and Lee 2023, arXiv:2310.02588).
GAUSSIAN = ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16))


def reciprocam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Score each position by itself, all others set to zero (Byun and Lee 2022, arXiv:2209.14074).

    What the tail makes of no activation at all is taken off, so that zero means no evidence; the
    paper's min-max scaling hides that constant.
    """
    return _masked(output, objectives, torch.ones(1, 1))


def vit_reciprocam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Score each patch token with its neighbours, all others set to zero and prefix tokens kept.

    Byun and Lee 2023, arXiv:2310.02588, with the zero of ``reciprocam``. ConfigError: the layer
    holds no tokens.
    """
    if output.layer.layout != "NLC":
        raise ConfigError(f"method 'vit_reciprocam' reads tokens and '{output.layer.name}' has none; use 'reciprocam'")
    return _masked(output, objectives, torch.tensor(GAUSSIAN))


def _masked(output: LayerOutput, objectives: Objectives, kernel: Tensor) -> Tensor:
    height, width = output.activations.shape[2:]
    nothing = objectives.values(output.rescore(torch.zeros_like(output.activations)))
    positions = torch.eye(height * width).reshape(-1, 1, height, width)
    masks = functional.conv2d(positions, kernel[None, None], padding=kernel.shape[0] // 2)
    scores = [objectives.values(output.rescore(output.activations * mask)) for mask in masks.to(output.activations)]
    return (torch.stack(scores, dim=1) - nothing[:, None]).reshape(-1, height, width)
