"""XGrad-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import weigh
from camserve.attribution.objectives import Objectives


def xgradcam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each channel by its gradient, averaged where the channel is active (Fu et al. 2020, arXiv:2008.02312).

    A channel whose activation sums to zero has no such average and weighs nothing.
    """
    return weigh(xgradcam_weights(output, objectives), output, objectives)


def xgradcam_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the weight of each channel, (T, K)."""
    activations = output.activations_of(objectives)
    mass = activations.sum(dim=(2, 3))
    weights = (output.gradients(objectives) * activations).sum(dim=(2, 3)) / mass
    return torch.where(mass == 0, 0.0, weights)
