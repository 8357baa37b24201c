"""One forward hook that keeps what modules were given and what they gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module in a forward pass."""

    name: str
    inputs: tuple[Any, ...]
    output: Tensor  # the very tensor: a later module may write into it
    copy: Tensor | None  # of the output as the module gave it, where copies are kept


def first_tensor(output: Any) -> Tensor | None:
    """Return a module's output, or the first entry of a tuple, where that is a tensor."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None


@contextmanager
def calls_of(modules: Mapping[str, nn.Module], copy: bool = False) -> Iterator[list[ModuleCall]]:
    """Keep each call of some modules, by name, while the block runs, in the order of execution.

    With ``copy`` each output is copied at once, before what follows may write into it.
    """
    calls: list[ModuleCall] = []
    handles = [module.register_forward_hook(_keep(name, calls, copy)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _keep(name: str, calls: list[ModuleCall], copy: bool) -> Any:
    def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            calls.append(ModuleCall(name, inputs, tensor, tensor.detach().clone() if copy else None))

    return keep
