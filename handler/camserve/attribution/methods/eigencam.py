"""Maps along the principal direction of what the layer holds."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import gradcam
from camserve.attribution.objectives import Objectives


def eigencam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Project each position on the first principal direction of the activation; the class plays no part.

    Muhammad and Yeasin 2020, arXiv:2008.00299; of centred positions, as
    pytorch-grad-cam computes it. The direction's arbitrary sign is the one that correlates with the
    sum of the positive activations; ``orientation`` says how surely.
    """
    activations = output.activations_of(objectives)
    return principal(activations, activations.clamp(min=0).sum(dim=1))[0]


def eigengradcam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Project gradient times activation as ``eigencam`` does, with the sign that correlates with Grad-CAM."""
    evidence = output.gradients(objectives) * output.activations_of(objectives)
    return principal(evidence, gradcam(output, objectives))[0]


def orientation(output: LayerOutput, objectives: Objectives) -> list[dict[str, float]]:
    """Return how surely the sign of each ``eigencam`` map is known: its correlation with the activation, 0 to 1."""
    activations = output.activations_of(objectives)
    correlations = principal(activations, activations.clamp(min=0).sum(dim=1))[1].tolist()
    return [{"orientation": round(correlation, 4)} for correlation in correlations]


def principal(values: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first principal component (T, h, w) of (T, K, h, w) and its correlation (T,) with ``guide``.

    The Gram matrix of the positions is hw x hw, however many channels there are.
    """
    positions = values.flatten(2).transpose(1, 2)
    # Scaled, so that products of tiny gradients do not underflow; float64, since a Gram matrix squares.
    largest = values.abs().amax(dim=(1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
    centred = (positions / largest[:, None, None]).double()
    centred = centred - centred.mean(dim=1, keepdim=True)
    spread, vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    component = vectors[:, :, -1] * spread[:, -1:].clamp(min=0).sqrt() * largest[:, None]
    correlation = torch.nan_to_num(_correlation(component, guide.flatten(1).double()))
    signed = component * torch.where(correlation < 0, -1.0, 1.0)[:, None]
    return signed.reshape(guide.shape).float(), correlation.abs()


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    one, other = one - one.mean(dim=1, keepdim=True), other - other.mean(dim=1, keepdim=True)
    return torch.nn.functional.cosine_similarity(one, other, dim=1, eps=0.0)
