"""HiResCAM."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives

ROUNDING = 1e-5  # of the mass of its terms: a sum that is nowhere larger is what rounding left


def hirescam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each position by its own gradient (Draelos and Carin 2020, arXiv:2011.08891).

    Where all that reads the layer is a normalisation of each position over its channels, as between
    the blocks of a transformer, the terms cancel: no scaling of the position can change the scores,
    so by Euler's theorem gradient . activation is zero. Such a map is returned as the zero it is,
    not as the rounding errors that scaling to its maximum would show.
    """
    terms = output.gradients(objectives) * output.activations_of(objectives)
    found = terms.sum(dim=1)
    mass = terms.abs().sum(dim=1).amax(dim=(1, 2), keepdim=True)
    return torch.where(found.abs().amax(dim=(1, 2), keepdim=True) > ROUNDING * mass, found, 0.0)
