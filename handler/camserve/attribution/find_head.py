"""Finding out whether average pooling and one linear layer are all that follows a layer.

It is found by running the network, never by what its modules are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.linear_head import LinearHead
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError
from camserve.network.output import device_of_network
from camserve.network.precision import full_precision
from camserve.values import InputShape, Layer

PICTURES = 2  # that a closed form is tried on
TOLERANCE = 2e-5  # of the largest value: ten times what rounding does to the tails of ResNet-50 and VGG-16


@full_precision()
def find_linear_head(network: nn.Module, layer: Layer, shape: InputShape) -> LinearHead | None:
    """Return the linear head behind ``layer`` of a network with inputs of ``shape``, if there is one.

    Its weight must be one of the network's parameters, of shape (C, K) or (C, K, 1, 1), and it must agree with what the
    network does: see ``agreement``. ConfigError: as for ``Capture``.
    """
    with Capture(network, (layer,)) as capture:
        (output,) = capture.forward(random_pictures(network, shape), tape=True)
        heads = (_with_bias(weight, output) for weight in _candidates(network, output))
        residuals = ((head, _residual(head, output)) for head in heads)
        return next((replace(head, residual=residual) for head, residual in residuals if residual is not None), None)


def random_pictures(network: nn.Module, shape: InputShape) -> Tensor:
    """Return two random pictures (2, C, H, W) on the network's device."""
    return torch.randn(PICTURES, *shape, generator=torch.Generator().manual_seed(0)).to(device_of_network(network))


def as_matrix(weight: object) -> Tensor | None:
    """Return a weight (M, K) or (M, K, 1, 1) as (M, K) float32; None: it is something else."""
    if not isinstance(weight, Tensor) or weight.ndim < 2 or weight.shape[2:] not in ((), (1, 1)):
        return None
    return weight.detach().flatten(1).float()


def agreement(
    output: LayerOutput,
    scores_of: Callable[[Tensor], Tensor],
    gradients_of: Callable[[Objectives], Tensor],
    means_of: Callable[[Objectives], Tensor],
    strange: Sequence[Tensor] = (),
) -> float | None:
    """Return the residual of a closed form that does what the network does; None: it does something else.

    Compared with a recorded pass of two pictures: the scores, the gradients of random weightings of the scores, and the
    scores of activations that no picture gives (large ones of either sign, which shows a ReLU or a clamp; ``strange``
    are further ones). A second way from the layer to the scores may wait for a picture that opens it, so there must be
    none. ``gradients_of`` returns (T, K, h, w), or (T, K, 1, 1) where all positions have the same, and ``means_of``
    their means (T, K).
    """
    if output.path() is None:
        return None
    objectives = random_objectives(output)
    residual = _distance(scores_of(output.activations), output.scores)
    truth = output.gradients(objectives)
    distances = [residual, _distance(means_of(objectives), truth.mean(dim=(2, 3)))]
    distances.append(_distance(gradients_of(objectives), truth))
    try:
        large = 100 * output.activations.flip(dims=(0, 2))
        for activations in (1 - large, 1 + large, *strange):
            distances.append(_distance(scores_of(activations), output.rescore(activations)))
    except ConfigError:  # the tail cannot be run again, so that nobody can say
        return None
    return residual if all(distance < TOLERANCE for distance in distances) else None


def gradients_agree(plain: LayerOutput, short: LayerOutput) -> bool:
    """Whether two passes of the same pictures have the same gradients of random weightings of the scores."""
    objectives = random_objectives(plain)
    return _distance(short.gradients(objectives), plain.gradients(objectives)) < TOLERANCE


def random_objectives(output: LayerOutput) -> Objectives:
    """Return a random weighting of the scores of every row."""
    weights = torch.randn(output.scores.shape, generator=torch.Generator().manual_seed(1)).to(output.scores)
    return Objectives.weighing(range(len(weights)), weights)


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinite where there is no value at all."""
    largest = float(other.abs().max())
    return float((one - other).abs().max()) / largest if largest > 0 else float("inf")


def _candidates(network: nn.Module, output: LayerOutput) -> Iterator[Tensor]:
    shape = output.scores.shape[1], output.activations.shape[1]
    matrices = (as_matrix(parameter) for parameter in network.parameters())
    return (matrix for matrix in matrices if matrix is not None and matrix.shape == shape)


def _with_bias(weight: Tensor, output: LayerOutput) -> LinearHead:
    """Return the head with the bias that the scores imply."""
    offsets = output.scores - output.activations.mean(dim=(2, 3)) @ weight.T
    return LinearHead(weight, offsets.mean(dim=0))


def _residual(head: LinearHead, output: LayerOutput) -> float | None:
    positions = output.activations[0, 0].numel()

    def means(objectives: Objectives) -> Tensor:
        return head.channel_weights(objectives) / positions

    return agreement(output, head.scores, lambda objectives: means(objectives)[:, :, None, None], means)
