"""Forward passes in which every module's output is noted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camserve.attribution.capture import Capture, start_graph
from camserve.build.probe.axes import Key, Shape
from camserve.errors import ConfigError
from camserve.network.hooks import first_tensor

Read = Callable[[str, int, Any], Any]  # what a module of this name handed on at this call; returns what it shall


@dataclass(frozen=True)
class Output:
    """What one call of one module handed on."""

    name: str
    call: int
    kind: str  # of Python object
    shape: Shape | None  # of the tensor, or the first of a tuple; None where there is none
    edge: GradientEdge | None  # where its gradient arrives, before any later in-place edit of it

    @property
    def key(self) -> Key:
        """Which module, and which of its calls."""
        return self.name, self.call


def watch(network: nn.Module, pixels: Tensor) -> tuple[list[Output], Tensor]:
    """Run the network on (N, C, H, W) pixels, with an autograd graph that starts at its first module.

    Returns every module's outputs, in the order in which they were ready, and the scores (N, C).
    The network comes back as it was. ConfigError: it fails on such pixels.
    """
    outputs: list[Output] = []

    def read(name: str, call: int, output: Any) -> Any:
        tensor, kind = _tensor(output), type(output).__name__
        if tensor is None or tensor.ndim < 3 or not tensor.is_floating_point():
            outputs.append(Output(name, call, kind, None if tensor is None else tuple(tensor.shape), None))
            return None
        handed_on = start_graph(tensor)[1]
        outputs.append(Output(name, call, kind, tuple(tensor.shape), get_gradient_edge(handed_on)))
        return handed_on if isinstance(output, Tensor) else (handed_on, *output[1:])

    try:
        with torch.inference_mode(False), torch.enable_grad(), _reading(network, read):
            return outputs, network(pixels)
    except ConfigError:
        raise
    except Exception as error:
        size = " x ".join(map(str, pixels.shape[2:]))
        message = f"the network fails on a picture of {size} pixels: {type(error).__name__}: {error}"
        raise ConfigError(message) from error


def watch_shapes(network: nn.Module, pixels: Tensor) -> dict[Key, Shape]:
    """Return the shapes of outputs, by module name and call, for pixels that the network may refuse half way."""
    shapes: dict[Key, Shape] = {}

    def look(name: str, call: int, tensor: Tensor) -> None:
        shapes[name, call] = tuple(tensor.shape)

    # What a network raises on a size that it was not made for is not a fault.
    with contextlib.suppress(Exception):
        watch_values(network, pixels, look)
    return shapes


def watch_values(network: nn.Module, pixels: Tensor, look: Callable[[str, int, Tensor], None]) -> None:
    """Show ``look`` every module's output (module name, call, tensor); it must not keep or change it."""

    def read(name: str, call: int, output: Any) -> None:
        tensor = _tensor(output)
        if tensor is not None:
            look(name, call, tensor)

    with torch.no_grad(), _reading(network, read):
        network(pixels)


def _tensor(output: Any) -> Tensor | None:
    # Capture hands on a tuple whose first entry is replaced; other containers would lose their kind.
    return first_tensor(output) if isinstance(output, Tensor) or type(output) is tuple else None


@contextlib.contextmanager
def _reading(network: nn.Module, read: Read) -> Iterator[None]:
    """Borrow the network and read every module's outputs."""
    handles = []
    with Capture(network, ()):
        try:
            for name, module in network.named_modules():
                if name:
                    handles.append(module.register_forward_hook(_Hook(name, read)))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Hook:
    """A forward hook that counts a module's calls."""

    def __init__(self, name: str, read: Read) -> None:
        self._name, self._read = name, read
        self._calls = 0

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        self._calls += 1
        return self._read(self._name, self._calls - 1, output)
