"""Weights as a training loop leaves them: which part of a file is the network's state dict, and under which names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from camserve.build.weights.read import HOW_TO_SAVE
from camserve.errors import ConfigError
from camserve.network.weights import set_versions

DEEPEST = 3  # mappings in one another, at which a state dict may stand in a checkpoint
SHOWN = 3  # names in a message
COMPILED = "_orig_mod."  # what torch.compile puts into the names of a network's tensors


class StateDict(NamedTuple):
    """A mapping of names to tensors that was found in a file."""

    path: str  # the keys that lead to it, joined by dots; "" for the whole file
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] | None  # as torch keeps it beside the tensors: {module: {"version": number}}
    quantized: str | None  # the first name of a quantized weight


class Fit(NamedTuple):
    """How the names of a state dict become those of the network."""

    prefix: str
    compiled: bool  # whether ``COMPILED`` is taken out of the names first


def find_state_dict(
    network: nn.Module, loaded: object, file: str, key: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict in ``loaded`` that fits a network, under the network's names, and what was assumed.

    ``key`` chooses among several, by the keys that lead to it. Where none fits, the largest is returned as it is.
    ConfigError: there is none, or its weights are quantized.
    """
    found = _candidates(loaded, file, key)
    expected = _needed(network)
    fitting = [(state, fit) for state in found if (fit := _fit(state.tensors, expected))]
    if not fitting:
        largest = max(found, key=lambda state: len(state.tensors))
        return _renamed(largest, Fit("", False)), _describe_place(largest.path)
    shaped = [(state, fit) for state, fit in fitting if _shapes_agree(state.tensors, fit, expected)]
    state, fit = (shaped or fitting)[0]
    others = [other.path for other, _ in fitting if other is not state]
    return _renamed(state, fit), _describe(state, fit, others)


def _candidates(loaded: object, file: str, key: str | None) -> list[StateDict]:
    """Return the state dicts to choose from. ConfigError: there is none, or one is quantized."""
    found = [state for state in _state_dicts(loaded) if key in (None, state.path)]
    if key is not None and not found:
        paths = ", ".join(repr(state.path) for state in _state_dicts(loaded)) or "none"
        raise ConfigError(f"{file} has no state dict under weights_key {key!r}; there is: {paths}")
    if not found:
        raise ConfigError(f"{file} holds no state dict: save {HOW_TO_SAVE}")
    if quantized := next((state.quantized for state in found if state.quantized), None):
        raise ConfigError(
            f"{file} holds quantized weights ('{quantized}'), which have no gradients to explain with: "
            "save the state dict of the network before it was quantized"
        )
    return found


def _state_dicts(loaded: object, path: str = "", depth: int = 0) -> Iterator[StateDict]:
    """Yield every mapping that names tensors, and those inside it; other entries of it are no weights."""
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping) or depth > DEEPEST:
        return
    named = {name: value for name, value in loaded.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        quantized = next((name for name, value in named.items() if _is_quantized(name, value)), None)
        yield StateDict(path, tensors, getattr(loaded, "_metadata", None), quantized)
    for name, value in named.items():
        yield from _state_dicts(value, f"{path}.{name}" if path else name, depth + 1)


def _is_quantized(name: str, value: object) -> bool:
    return name.endswith("_packed_params") or (isinstance(value, Tensor) and value.is_quantized)


def _needed(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network that any state dict of it must hold: old ones do not count batches."""
    return {
        name: value
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor) and not name.endswith("num_batches_tracked")
    }


def _fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Fit | None:
    """Return the prefix under which ``tensors`` hold every name that is expected; none at all is tried first."""
    anchor = next(iter(expected), "")
    for compiled in (False, True):
        names = dict.fromkeys(_plain(name, compiled) for name in tensors)
        prefixes = [name[: -len(anchor)] for name in names if name.endswith(f".{anchor}")]
        for prefix in ("", *prefixes):
            if expected and all(prefix + name in names for name in expected):
                return Fit(prefix, compiled)
    return None


def _plain(name: str, compiled: bool) -> str:
    return name.replace(COMPILED, "") if compiled else name


def _shapes_agree(tensors: Mapping[str, Tensor], fit: Fit, expected: Mapping[str, Tensor]) -> bool:
    shapes = {_plain(name, fit.compiled): tensor.shape for name, tensor in tensors.items()}
    return all(shapes[fit.prefix + name] == tensor.shape for name, tensor in expected.items())


def _renamed(state: StateDict, fit: Fit) -> dict[str, Tensor]:
    """Return the tensors under ``fit.prefix``, and the versions of their modules, by the network's own names."""
    tensors = OrderedDict(
        (plain[len(fit.prefix) :], tensor)
        for name, tensor in state.tensors.items()
        if (plain := _plain(name, fit.compiled)).startswith(fit.prefix)
    )
    if state.metadata is not None:
        modules = {_plain(f"{name}.", fit.compiled): entry for name, entry in state.metadata.items()}
        versions = {
            name[len(fit.prefix) :].rstrip("."): entry["version"]
            for name, entry in modules.items()
            if name.startswith(fit.prefix) and "version" in entry
        }
        set_versions(tensors, versions)
    return tensors


def _describe_place(path: str) -> list[str]:
    return [f"took the state dict under '{path}'"] if path else []


def _describe(state: StateDict, fit: Fit, others: Sequence[str]) -> list[str]:
    lines = _describe_place(state.path)
    if fit.compiled:
        lines.append(f"'{COMPILED}' taken out of the names")
    if fit.prefix:
        lines.append(f"prefix '{fit.prefix}' stripped")
        left = [name for name in state.tensors if not _plain(name, fit.compiled).startswith(fit.prefix)]
        if left:
            lines.append(f"{len(left)} other tensors left out ({', '.join(left[:SHOWN])})")
    if others:
        lines.append(f"--weights-key takes another: {', '.join(others[:SHOWN])}")
    return lines
