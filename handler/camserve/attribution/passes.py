"""Passes of the whole network that a method runs besides the prediction's own."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.capture import Capture
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives

RERUN_BATCH = 16  # pictures in one forward pass
TOGETHER = 8  # objectives in one backward pass


@torch.no_grad()
def rerun_network(output: LayerOutput, pixels: Tensor) -> Tensor:
    """Return the scores (M, C) float32 of other pixels (M, C, H, W). OutOfTime: between two passes."""
    scores = []
    with Capture(output.network, ()):
        for part in torch.split(pixels, RERUN_BATCH):
            output.check_time()
            scores.append(output.network(part))
    return torch.cat(scores).float()


def pixel_gradients(output: LayerOutput, objectives: Objectives, pixels: Tensor) -> Tensor:
    """Return d objective / d pixel, (T, C, H, W) float32, at ``pixels`` (T, C, H, W). OutOfTime: between two passes."""
    chunks = zip(torch.split(pixels, TOGETHER), torch.split(objectives.weights, TOGETHER))
    with Capture(output.network, ()):
        return torch.cat([_gradients(output, part, weights) for part, weights in chunks])


def _gradients(output: LayerOutput, pixels: Tensor, weights: Tensor) -> Tensor:
    output.check_time()
    with torch.inference_mode(False), torch.enable_grad():
        watched = pixels.detach().requires_grad_()
        scores = output.network(watched.clone())  # whose first operator may work in place
        (found,) = torch.autograd.grad((weights.to(scores) * scores).sum(), watched)
    return found.float()
