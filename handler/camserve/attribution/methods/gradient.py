"""Maps at the resolution of the input: the target's gradient with respect to the pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.attribution.passes import pixel_gradients

STEPS = 50  # of the path of integrated gradients
SAMPLES = 25  # noisy copies of a picture
NOISE = 0.15  # standard deviation of the noise, as a share of the range of the picture's pixels


def gradient(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the gradient, summed over colours (Simonyan et al. 2014, arXiv:1312.6034, with its sign)."""
    return pixel_gradients(output, objectives, output.pixels[objectives.row_index]).sum(dim=1)


def input_x_gradient(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return gradient times pixel, summed over colours (Shrikumar et al. 2016, arXiv:1605.01713)."""
    pixels = output.pixels[objectives.row_index]
    return (pixels * pixel_gradients(output, objectives, pixels)).sum(dim=1)


def integrated_gradients(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Integrate the gradient along the straight way from the mean colour to the picture, summed over colours.

    Sundararajan et al. 2017, arXiv:1703.01365, equation 1 by Gauss-Legendre quadrature: the map
    sums to how much the target rises on that way.
    """
    pixels = output.pixels[objectives.row_index]
    total = torch.zeros_like(pixels)
    for point, weight in zip(*np.polynomial.legendre.leggauss(STEPS)):
        total += weight / 2 * pixel_gradients(output, objectives, pixels * ((1 + point) / 2))
    return (pixels * total).sum(dim=1)


def smoothgrad(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Average the gradient over noisy copies of the picture, summed over colours.

    Smilkov et al. 2017, arXiv:1706.03825. The noise is the same for every picture and every call,
    so that the same picture always gets the same map.
    """
    pixels = output.pixels[objectives.row_index]
    total = torch.zeros_like(pixels)
    for noise in smoothing_noise(pixels):
        total += pixel_gradients(output, objectives, pixels + noise)
    return total.sum(dim=1) / SAMPLES


def smoothing_noise(pixels: Tensor) -> Tensor:
    """Return ``SAMPLES`` draws of noise for pixels (T, C, H, W), each as wide as its own picture asks."""
    drawn = torch.randn(SAMPLES, 1, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
    spread = pixels.amax(dim=(1, 2, 3), keepdim=True) - pixels.amin(dim=(1, 2, 3), keepdim=True)
    return NOISE * spread * drawn.to(pixels)
