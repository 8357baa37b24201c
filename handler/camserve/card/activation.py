"""What a channel sees in one photo: its feature map, and the pixels that make it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from camserve.attribution.methods.guided import RectifiedBackward
from camserve.card.subject import Subject

ENDS = 0.005  # share of the pixels at either end that is not told apart in a picture


def activation_of(subject: Subject, photo: Tensor, channel: int) -> Tensor:
    """Return a channel's feature map for a photo (3, H, W), enlarged to its size and divided by its maximum, 0..1."""
    with torch.no_grad():
        found = subject.look(photo[None])[1][:, channel : channel + 1].clamp(min=0)
    large = functional.interpolate(found, size=photo.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    return (large / large.max().clamp(min=torch.finfo(torch.float32).tiny)).cpu()


def pixels_of(subject: Subject, photo: Tensor, channel: int) -> tuple[Tensor, bool]:
    """Return the gradient (3, H, W) of a channel's mean activation, and whether it is guided backpropagation.

    Springenberg et al. 2015, arXiv:1412.6806. A network without ReLU has nothing to guide: the gradient is plain.
    """
    with RectifiedBackward(masked=True) as guided:
        gradient = _gradient(subject, photo, channel)
    return gradient, guided.met


def _gradient(subject: Subject, photo: Tensor, channel: int) -> Tensor:
    with torch.enable_grad():
        watched = photo[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(subject.look(watched)[1][0, channel].mean(), watched)
    return gradient[0].cpu()


def as_picture(gradient: Tensor) -> Tensor:
    """Return a gradient as a picture, 0..1: grey is zero."""
    largest = gradient.abs().flatten().kthvalue(max(1, round(gradient.numel() * (1 - ENDS)))).values
    return (0.5 + 0.5 * gradient / largest.clamp(min=torch.finfo(torch.float32).tiny)).clamp(0, 1)
