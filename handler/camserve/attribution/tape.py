"""The operators after the target layer, recorded in one forward pass and run again on another activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from camserve.attribution.operators import OperatorMode


class NotReplayable(Exception):
    """The tail does something that cannot be run again on another activation."""


@dataclass(frozen=True)
class _Slot:
    """An argument that an earlier step made."""

    number: int


@dataclass(frozen=True)
class _View:
    """An argument that lies in the memory of what an earlier step made, in another layout."""

    number: int
    layout: tuple[Any, ...]  # size, stride, offset


@dataclass(frozen=True)
class _Fixed:
    """An argument that does not depend on the activation."""

    number: int


Made = Union[_Slot, _View]


@dataclass(frozen=True)
class _Step:
    """One operator, with every tensor in its arguments named."""

    operator: Any
    leaves: list[Any]
    structure: Any
    made: list[tuple[int, torch.Size] | None]  # the slot and shape of each output


class Tape(OperatorMode):
    """Record, while it is switched on, the operators that depend on one tensor.

    It sees operators below autograd, so functional code, in-place edits, views, skip connections
    from before the layer and attention kernels are all on the tape, whatever module they live in.
    """

    def __init__(self, activation: Tensor) -> None:
        """Start from the tensor that the layer hands on."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._layout = (*_layout(activation)[:2], activation.dtype, activation.device)
        self._steps: list[_Step] = []
        self._fixed: list[Tensor] = []
        self._readers: dict[int, list[int]] = {}  # which fixed tensors lie in a storage
        self._slots: dict[Any, int] = {}
        self._owners: dict[int, tuple[int, torch.dtype]] = {}  # the slot that fills a storage on the tape
        self._alive: list[Tensor] = []  # so that no storage's address is used twice
        self._count = 0
        self._fault = ""
        self._result: Made | None = None
        self._add(activation)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator as it is, and keep it if it depends on the activation."""
        leaves, structure = tree_flatten((args, kwargs or {}))
        depends = any(self._known(leaf) for leaf in leaves)
        for written in _written(func, args, kwargs or {}):
            if not self._known(written):
                self._save(written)
                if depends:
                    self._adopt(written)
        named = [self._name(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves] if depends else []
        output = func(*args, **(kwargs or {}))
        if depends:
            made = tree_flatten(output)[0]
            if not any(isinstance(value, Tensor) for value in made):
                self._fault = self._fault or f"{func} decides by the values of the activation"
            slots = [(self._add(value), value.shape) if isinstance(value, Tensor) else None for value in made]
            self._steps.append(_Step(func, named, structure, slots))
        return output

    def close(self, scores: Tensor) -> None:
        """Mark ``scores`` as the result and free what only recording needs."""
        if self._known(scores):
            name = self._name(scores)
            assert not isinstance(name, _Fixed)
            self._result = name
        else:
            self._fault = self._fault or "the scores do not depend on this layer's output"
        self._readers, self._slots, self._owners, self._alive = {}, {}, {}, []
        self._last_use = {number: at for at, step in enumerate(self._steps) for number in _uses(step)}

    @torch.no_grad()
    def replay(self, activation: Tensor) -> Tensor:
        """Return the scores for another activation of the same shape. NotReplayable says why not."""
        if self._fault or self._result is None:
            raise NotReplayable(self._fault or "the recording has not ended")
        size, stride, dtype, device = self._layout
        values = {0: torch.empty_strided(size, stride, dtype=dtype, device=device).copy_(activation)}
        for at, step in enumerate(self._steps):
            args, kwargs = tree_unflatten([self._value(leaf, values) for leaf in step.leaves], step.structure)
            output = tree_flatten(step.operator(*args, **kwargs))[0]
            for made, value in zip(step.made, output):
                if made is not None:
                    if value.shape != made[1]:
                        raise NotReplayable(f"the shape of {step.operator} depends on the values of the activation")
                    values[made[0]] = value
            for number in _uses(step):
                if self._last_use[number] == at and number != self._result.number:
                    values.pop(number, None)
        result: Tensor = self._value(self._result, values)
        return result

    def _known(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and _storage(leaf) in self._owners

    def _add(self, tensor: Tensor) -> int:
        """Give a tensor that depends on the activation the next slot."""
        number, self._count = self._count, self._count + 1
        self._slots[_key(tensor)] = number
        self._owners.setdefault(_storage(tensor), (number, tensor.dtype))
        self._alive.append(tensor)
        return number

    def _name(self, tensor: Tensor) -> Made | _Fixed:
        if not self._known(tensor):
            return self._fix(tensor)
        # Autograd hands views on as new objects, hence the look-up by where a tensor lies.
        slot = self._slots.get(_key(tensor))
        if slot is not None:
            return _Slot(slot)
        owner, dtype = self._owners[_storage(tensor)]
        if dtype != tensor.dtype:
            self._fault = self._fault or f"a view of {dtype} memory as {tensor.dtype}"
        return _View(owner, _layout(tensor))

    def _fix(self, tensor: Tensor) -> _Fixed:
        self._fixed.append(tensor.detach())
        self._readers.setdefault(_storage(tensor), []).append(len(self._fixed) - 1)
        return _Fixed(len(self._fixed) - 1)

    def _save(self, tensor: Tensor) -> None:
        """Before a fixed tensor is overwritten, copy it for the steps that have read it."""
        for number in self._readers.pop(_storage(tensor), []):
            self._fixed[number] = self._fixed[number].clone()

    def _adopt(self, tensor: Tensor) -> None:
        """Before the activation flows into a fixed tensor's memory, make that memory a step's output."""
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        before = torch.as_strided(tensor.detach(), (size,), (1,), 0).clone()
        number, self._count = self._count, self._count + 1
        leaves, structure = tree_flatten(((self._fix(before),), {}))
        self._steps.append(_Step(torch.ops.aten.clone.default, leaves, structure, [(number, before.shape)]))
        self._owners[_storage(tensor)] = (number, tensor.dtype)
        self._alive.extend((tensor, before))

    def _value(self, leaf: Any, values: dict[int, Tensor]) -> Any:
        if isinstance(leaf, _Slot):
            return values[leaf.number]
        if isinstance(leaf, _View):
            return torch.as_strided(values[leaf.number], *leaf.layout)
        return self._fixed[leaf.number] if isinstance(leaf, _Fixed) else leaf


def _uses(step: _Step) -> set[int]:
    return {leaf.number for leaf in step.leaves if isinstance(leaf, (_Slot, _View))}


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def _key(tensor: Tensor) -> tuple[Any, ...]:
    return _storage(tensor), tensor.dtype, *_layout(tensor)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operator writes to."""
    arguments = func._schema.arguments
    names = {
        argument.name for argument in arguments if argument.alias_info is not None and argument.alias_info.is_write
    }
    positions = [at for at, argument in enumerate(arguments) if argument.name in names and at < len(args)]
    found = [args[at] for at in positions] + [value for name, value in kwargs.items() if name in names]
    return [value for value in tree_flatten(found)[0] if isinstance(value, Tensor)]
