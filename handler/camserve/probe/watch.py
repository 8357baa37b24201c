"""A forward pass in which every module's output is noted, with its place in the autograd graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camserve.capture import Capture
from camserve.errors import ConfigError
from camserve.probe.axes import Shape
from camserve.scores import scores_of


@dataclass(frozen=True)
class Output:
    """What one call of one module handed on."""

    name: str
    call: int
    kind: str  # of Python object
    shape: Shape | None  # of the tensor, or the first of a tuple; None where there is none
    edge: GradientEdge | None  # where its gradient arrives, before any later in-place edit of it


def watch(network: nn.Module, pixels: Tensor) -> tuple[list[Output], Tensor]:
    """Run the network on (N, 3, H, W) pixels, with an autograd graph that starts at its first module.

    Returns every module's outputs, in the order in which they were ready, and the scores (N, C).
    The network comes back as it was. ConfigError: it fails on such pixels.
    """
    outputs: list[Output] = []
    try:
        with torch.inference_mode(False), torch.enable_grad(), _noted(network, outputs):
            return outputs, scores_of(network(pixels))
    except ConfigError:
        raise
    except Exception as error:
        size = " x ".join(map(str, pixels.shape[2:]))
        message = f"the network fails on a picture of {size} pixels: {type(error).__name__}: {error}"
        raise ConfigError(message) from error


def watch_shapes(network: nn.Module, pixels: Tensor) -> dict[tuple[str, int], Shape]:
    """Return the shapes of outputs, by module name and call, for pixels that the network may refuse half way."""
    outputs: list[Output] = []
    # What a network raises on a size that it was not made for is not a fault.
    with contextlib.suppress(Exception), torch.no_grad(), _noted(network, outputs):
        network(pixels)
    return {(each.name, each.call): each.shape for each in outputs if each.shape is not None}


@contextlib.contextmanager
def _noted(network: nn.Module, outputs: list[Output]) -> Iterator[None]:
    """Borrow the network and note every module's outputs."""
    handles = []
    with Capture(network, ()):
        try:
            for name, module in network.named_modules():
                if name:
                    handles.append(module.register_forward_hook(_Note(name, outputs)))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Note:
    """A forward hook that notes a module's outputs, and starts the autograd graph where there is none yet."""

    def __init__(self, name: str, outputs: list[Output]) -> None:
        self._name, self._outputs = name, outputs
        self._calls = 0

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        self._calls += 1
        # Capture hands on a tuple whose first entry is replaced; other containers would lose their kind.
        tensor = output[0] if type(output) is tuple and output else output
        if not isinstance(tensor, Tensor):
            self._note(type(output).__name__, None, None)
            return None
        replaced = None
        if torch.is_grad_enabled() and tensor.ndim > 2 and tensor.is_floating_point() and not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
            # A copy, since a leaf must not be edited in place.
            replaced = tensor.clone() if isinstance(output, Tensor) else (tensor.clone(), *output[1:])
        edge = get_gradient_edge(tensor) if tensor.requires_grad else None
        self._note(type(output).__name__, tuple(tensor.shape), edge)
        return replaced

    def _note(self, kind: str, shape: Shape | None, edge: GradientEdge | None) -> None:
        self._outputs.append(Output(self._name, self._calls - 1, kind, shape, edge))
