"""Score-CAM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import weigh
from camserve.attribution.objectives import Objectives
from camserve.attribution.passes import rerun_network

CHANNELS = 64  # at most so many forward passes for one target; the paper has one for every channel


def scorecam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each channel by the target's value when only what the channel shows is left of the picture.

    Wang et al. 2020, arXiv:1910.01279, equations 5 to 8: a softmax over channels. Of more than
    ``CHANNELS`` channels only those that vary most over the positions take part.
    """
    return weigh(scorecam_weights(output, objectives), output, objectives)


def scorecam_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the weight of each channel, (T, K)."""
    weights = output.activations.new_zeros(len(objectives.rows), output.activations.shape[1])
    for row in sorted(set(objectives.rows)):
        chosen = torch.nonzero(objectives.row_index == row).flatten()
        channels = output.activations[row].std(dim=(1, 2), correction=0).topk(min(CHANNELS, weights.shape[1])).indices
        masked = output.pixels[row] * _masks(output.activations[row][channels], output.pixels.shape[2:])
        values = objectives.weights[chosen] @ rerun_network(output, masked).T
        weights[chosen[:, None], channels] = values.softmax(dim=1)
    return weights


def _masks(activations: Tensor, size: torch.Size) -> Tensor:
    """Enlarge (K, h, w) to the picture's size and scale each to 0..1; a constant one shows nothing."""
    low, high = activations.amin(dim=(1, 2), keepdim=True), activations.amax(dim=(1, 2), keepdim=True)
    scaled = torch.where(high > low, (activations - low) / (high - low), 0.0)
    return functional.interpolate(scaled[:, None], size=tuple(size), mode="bilinear", align_corners=False)
