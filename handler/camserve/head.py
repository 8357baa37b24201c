"""Finding the tail's closed form: average pooling and one linear layer, and nothing else.

It is found by running the network, never by what its modules are called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camserve.capture import Capture, Seen
from camserve.errors import ConfigError
from camserve.tail import Head
from camserve.values import Layer, Targets


def find_head(network: nn.Module, layer: Layer, size: tuple[int, int]) -> Head | None:
    """Return the closed form of what follows ``layer`` in a network with inputs of ``size``, if there is one.

    Its weight must be one of the network's parameters, of shape (C, K) or (C, K, 1, 1), and the
    closed form must agree with what the network does: the gradients of random weightings of the
    scores, the scores of two random pictures, and the scores of activations that no picture gives
    (large and of either sign, which shows a ReLU or a clamp). ConfigError: as for ``Capture``.
    """
    parameters = list(network.parameters())
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, *size, generator=generator)
    if parameters:
        pixels = pixels.to(parameters[0].device)
    with Capture(network, (layer,)) as capture:
        (seen,) = capture.forward(pixels, tape=True)
        shape = (seen.scores.shape[1], seen.activations.shape[1])
        candidates = [each.detach().flatten(1).float() for each in parameters if _fits(each, shape)]
        weightings = torch.randn(2, shape[0], generator=generator).to(seen.scores)
        targets = Targets(torch.arange(2, device=weightings.device), weightings)
        return next((head for each in candidates if (head := _verify(seen, targets, each)) is not None), None)


def _fits(parameter: Tensor, shape: tuple[int, int]) -> bool:
    return tuple(parameter.shape) in (shape, (*shape, 1, 1))


def _verify(seen: Seen, targets: Targets, weight: Tensor) -> Head | None:
    offsets = seen.scores - Head(weight, seen.scores.new_zeros(len(weight)), 0.0).scores(seen.activations)
    head = Head(weight, offsets.mean(dim=0), 0.0)
    strange = 1 - 100 * seen.activations.flip(dims=(0, 2))
    try:
        rescored = seen.rescore(strange)
    except ConfigError:
        return None
    residual = _distance(head.scores(seen.activations), seen.scores)
    distances = (
        residual,
        _distance(head.gradients(targets.weights, seen.activations.shape[2:]), seen.gradients(targets)),
        _distance(head.scores(strange), rescored),
    )
    tolerance: float = torch.finfo(weight.dtype).eps ** 0.5
    return Head(weight, head.bias, residual) if max(distances) < tolerance else None


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinite where there is no value at all."""
    largest = float(other.abs().max())
    return float((one - other).abs().max()) / largest if largest > 0 else float("inf")
