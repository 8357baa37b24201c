"""Maps at the resolution of the input: the target's gradient with respect to the pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camserve.attribution.capture import Capture, Seen
from camserve.values import Targets

TOGETHER = 8  # targets in one pass
STEPS = 50  # of the path of integrated gradients
SAMPLES = 25  # noisy copies of a picture
NOISE = 0.15  # standard deviation of the noise, as a share of the range of the picture's pixels


def gradient(seen: Seen, targets: Targets) -> Tensor:
    """Return the gradient, summed over colours (Simonyan et al. 2014, arXiv:1312.6034, with its sign)."""
    return pixel_gradients(seen, targets, seen.pixels[targets.rows]).sum(dim=1)


def input_x_gradient(seen: Seen, targets: Targets) -> Tensor:
    """Return gradient times pixel, summed over colours (Shrikumar et al. 2016, arXiv:1605.01713)."""
    pixels = seen.pixels[targets.rows]
    return (pixels * pixel_gradients(seen, targets, pixels)).sum(dim=1)


def integrated_gradients(seen: Seen, targets: Targets) -> Tensor:
    """Integrate the gradient along the straight way from the mean colour to the picture, summed over colours.

    Sundararajan et al. 2017, arXiv:1703.01365, equation 1 by Gauss-Legendre quadrature: the map
    sums to how much the target rises on that way.
    """
    pixels = seen.pixels[targets.rows]
    total = torch.zeros_like(pixels)
    for point, weight in zip(*np.polynomial.legendre.leggauss(STEPS)):
        total += weight / 2 * pixel_gradients(seen, targets, pixels * ((1 + point) / 2))
    return (pixels * total).sum(dim=1)


def smoothgrad(seen: Seen, targets: Targets) -> Tensor:
    """Average the gradient over noisy copies of the picture, summed over colours.

    Smilkov et al. 2017, arXiv:1706.03825. The noise is the same for every picture and every call,
    so that the same picture always gets the same map.
    """
    pixels = seen.pixels[targets.rows]
    total = torch.zeros_like(pixels)
    for noise in smoothing_noise(pixels):
        total += pixel_gradients(seen, targets, pixels + noise)
    return total.sum(dim=1) / SAMPLES


def smoothing_noise(pixels: Tensor) -> Tensor:
    """Return ``SAMPLES`` draws of noise for pixels (T, 3, H, W), each as wide as its own picture asks."""
    drawn = torch.randn(SAMPLES, 1, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
    spread = pixels.amax(dim=(1, 2, 3), keepdim=True) - pixels.amin(dim=(1, 2, 3), keepdim=True)
    return NOISE * spread * drawn.to(pixels)


def pixel_gradients(seen: Seen, targets: Targets, pixels: Tensor) -> Tensor:
    """Return d target / d pixel, (T, 3, H, W) float32, at ``pixels`` (T, 3, H, W): a pass of the whole network.

    OutOfTime: between two of its passes.
    """
    chunks = zip(torch.split(pixels, TOGETHER), torch.split(targets.weights, TOGETHER))
    with Capture(seen.network, ()):
        return torch.cat([_gradients(seen, part, weights) for part, weights in chunks])


def _gradients(seen: Seen, pixels: Tensor, weights: Tensor) -> Tensor:
    seen.check_time()
    with torch.inference_mode(False), torch.enable_grad():
        watched = pixels.detach().requires_grad_()
        scores = seen.network(watched.clone())  # whose first operator may work in place
        (found,) = torch.autograd.grad((weights.to(scores) * scores).sum(), watched)
    return found.float()
