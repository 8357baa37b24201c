"""Grad-CAM++."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import weigh
from camserve.attribution.objectives import Objectives


def gradcam_plus_plus(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each channel by its positive gradients, each as large as equation 19 makes it.

    Chattopadhyay et al. 2018, arXiv:1710.11063: the score enters through an exponential, whose
    derivatives are powers of the gradient g. There alpha = g^2 / (2 g^2 + sum(A) g^3) is
    1 / (2 + sum(A) g) wherever g is not zero, so nothing underflows and no epsilon is needed.
    """
    return weigh(plus_plus_weights(output, objectives), output, objectives)


def plus_plus_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the weight of each channel, (T, K)."""
    gradients = output.gradients(objectives)
    mass = output.activations_of(objectives).sum(dim=(2, 3), keepdim=True)
    inverse = 2 + mass * gradients
    alphas = torch.where(inverse == 0, 0.0, 1 / inverse)
    return (alphas * gradients.clamp(min=0)).sum(dim=(2, 3))
