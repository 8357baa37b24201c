"""XGrad-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.capture import Seen
from camserve.attribution.methods.gradcam import weigh
from camserve.values import Targets


def xgradcam(seen: Seen, targets: Targets) -> Tensor:
    """Weigh each channel by its gradient, averaged where the channel is active (Fu et al. 2020, arXiv:2008.02312).

    A channel whose activation sums to zero has no such average and weighs nothing.
    """
    activations = seen.activations_of(targets)
    mass = activations.sum(dim=(2, 3))
    weights = (seen.gradients(targets) * activations).sum(dim=(2, 3)) / mass
    return weigh(torch.where(mass == 0, 0.0, weights), seen, targets)
