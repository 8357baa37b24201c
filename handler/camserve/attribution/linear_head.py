"""Finding the tail's closed form: average pooling and one linear layer or two, and nothing else.

It is found by running the network, never by what its modules are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture, LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.attribution.tape import FUNCTIONS, Head, Hidden
from camserve.errors import ConfigError
from camserve.values import Layer


def find_head(network: nn.Module, layer: Layer, size: tuple[int, int]) -> Head | None:
    """Return the closed form of what follows ``layer`` in a network with inputs of ``size``, if there is one.

    The last weight must be one of the network's parameters, of shape (C, K) or (C, K, 1, 1), that of a hidden layer
    a module's, and the closed form must agree with what the network does: the gradients of random weightings of the
    scores, the scores of two random pictures, and the scores of activations that no picture gives
    (large and of either sign, which shows a ReLU or a clamp). ConfigError: as for ``Capture``.
    """
    parameters = list(network.parameters())
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, *size, generator=generator)
    if parameters:
        pixels = pixels.to(parameters[0].device)
    with Capture(network, (layer,)) as capture, _Outputs(network) as given:
        (seen,) = capture.forward(pixels, tape=True)
        classes = seen.scores.shape[1]
        targets = Objectives.weighing(range(2), torch.randn(2, classes, generator=generator).to(seen.scores))
        candidates = (*_last_alone(seen, parameters), *_behind_hidden(seen, parameters, given))
        found = next((head for each in candidates if (head := _verify(seen, targets, each, given)) is not None), None)
    return None if found is None else replace(found, intact=_leaves_intact(network, layer, pixels))


@torch.no_grad()
def _leaves_intact(network: nn.Module, layer: Layer, pixels: Tensor) -> bool:
    """Say whether what the layer gives is still the same when the network is done."""
    outputs: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        outputs.append((first, first.clone()))

    handle = network.get_submodule(layer.name).register_forward_hook(keep)
    try:
        with Capture(network, ()):  # in eval mode
            network(pixels)
    finally:
        handle.remove()
    now, then = outputs[layer.call]
    return torch.equal(now, then)


class _Outputs:
    """What every module with a weight (M, K) or (M, K, 1, 1) gave for two pictures, where that is (2, M)."""

    def __init__(self, network: nn.Module) -> None:
        self._modules = {name: each for name, each in network.named_modules() if _matrix(_weight(each)) is not None}
        self._outputs: dict[str, list[Tensor]] = {name: [] for name in self._modules}

    def __enter__(self) -> _Outputs:
        self._handles = [each.register_forward_hook(self._keep(name)) for name, each in self._modules.items()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.shape[2:].numel() == 1 and output.ndim > 1:
                # A copy: the next module may work in place.
                self._outputs[name].append(output.detach().flatten(1).to(torch.float32, copy=True))

        return keep

    def layers(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Return name, weight (M, K) and output (2, M) of each such module that ran once."""
        for name, outputs in self._outputs.items():
            weight = _matrix(_weight(self._modules[name]))
            if weight is not None and len(outputs) == 1 and outputs[0].shape == (2, len(weight)):
                yield name, weight, outputs[0]

    def __getitem__(self, name: str) -> Tensor:
        """Return the output of one of them."""
        return self._outputs[name][0]


def _weight(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def _matrix(weight: Tensor | None) -> Tensor | None:
    """Return a weight (M, K), or (M, K, 1, 1), as (M, K) float32."""
    if weight is None or weight.ndim < 2 or weight.shape[2:] not in ((), (1, 1)):
        return None
    return weight.detach().flatten(1).float()


def _last_alone(seen: LayerOutput, parameters: list[nn.Parameter]) -> Iterator[Head]:
    yield from (_headed(seen, each, None) for each in _last(parameters, seen, seen.activations.shape[1]))


def _behind_hidden(seen: LayerOutput, parameters: list[nn.Parameter], given: _Outputs) -> Iterator[Head]:
    pooled = seen.activations.mean(dim=(2, 3))
    functions = FUNCTIONS.keys() & seen.operators()
    for name, weight, output in given.layers():
        if weight.shape[1] != pooled.shape[1]:
            continue
        bias = (output - pooled @ weight.T).mean(dim=0)
        for function in sorted(functions):
            hidden = Hidden(name, weight, bias, function)
            yield from (_headed(seen, each, hidden) for each in _last(parameters, seen, len(weight)))


def _last(parameters: list[nn.Parameter], seen: LayerOutput, width: int) -> Iterator[Tensor]:
    """Return the matrices that may make the scores of ``width`` numbers."""
    matrices = (_matrix(each) for each in parameters)
    return (each for each in matrices if each is not None and each.shape == (seen.scores.shape[1], width))


def _headed(seen: LayerOutput, weight: Tensor, hidden: Hidden | None) -> Head:
    """Return the closed form with the bias that these scores tell."""
    offsets = seen.scores - Head(weight, seen.scores.new_zeros(len(weight)), 0.0, hidden).scores(seen.activations)
    return Head(weight, offsets.mean(dim=0), 0.0, hidden)


def _verify(seen: LayerOutput, targets: Objectives, head: Head, given: _Outputs) -> Head | None:
    hidden = None if head.hidden is None else given[head.hidden.module]
    strange = [1 - 100 * seen.activations.flip(dims=(0, 2))]
    if hidden is not None:  # where functions that are alike far from zero differ
        strange.append(seen.activations / hidden.std())
    try:
        rescored = [seen.rescore(each) for each in strange]
    except ConfigError:
        return None
    residual = _distance(head.scores(seen.activations), seen.scores)
    gradients = head.mean_gradients(targets, seen.activations[0, 0].numel(), hidden)[:, :, None, None]
    distances = (
        residual,
        _distance(gradients, seen.gradients(targets)),
        *(_distance(head.scores(each), scores) for each, scores in zip(strange, rescored)),
    )
    tolerance: float = torch.finfo(head.weight.dtype).eps ** 0.5
    return replace(head, residual=residual) if all(each < tolerance for each in distances) else None


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinite where there is no value at all."""
    largest = float(other.abs().max())
    return float((one - other).abs().max()) / largest if largest > 0 else float("inf")
