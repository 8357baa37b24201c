"""What a classifier returned: the one tensor in it that holds the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from camserve.errors import ConfigError


def select(returned: Any, path: str) -> Any:
    """Follow a path such as ``logits``, ``1`` or ``heads.color`` into what a classifier returned; "": all of it.

    ConfigError: there is nothing of that name.
    """
    value = returned
    for key in path.split(".") if path else ():
        try:
            if isinstance(value, Mapping):
                value = value[key]
            else:
                value = value[int(key)] if isinstance(value, (tuple, list)) and key.isdigit() else getattr(value, key)
        except (LookupError, AttributeError):
            found = describe_returned(returned)
            raise ConfigError(
                f"output.select '{path}': there is no '{key}' in what the classifier returns, {found}"
            ) from None
    return value


def as_rows(value: Any, returned: Any) -> Tensor:
    """Return scores as a matrix, one row a picture: (N,) becomes (N, 1), and axes of length 1 after the second go.

    ConfigError: ``value``, of what was ``returned``, is no tensor of scores.
    """
    if not may_be_scores(value):
        lost = (
            " (squeeze() without an axis takes the batch axis too)"
            if isinstance(value, Tensor) and not value.ndim
            else ""
        )
        raise ConfigError(
            f"the classifier returns {describe_returned(returned)}{lost}; it must return scores of shape (N, classes)"
        )
    rows: Tensor = value.flatten(1) if value.ndim > 1 else value[:, None]
    return rows


def may_be_scores(value: object) -> bool:
    """Whether a value is shaped like scores: (N,), (N, C), or (N, C, 1, ...) of floating point numbers."""
    if not isinstance(value, Tensor) or value.ndim == 0 or not value.is_floating_point():
        return False
    return all(side == 1 for side in value.shape[2:])


def tensors_in(returned: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Return every tensor of what a classifier returned, with its path."""
    if isinstance(returned, Tensor):
        yield prefix, returned
    for name, value in _entries(returned):
        yield from tensors_in(value, f"{prefix}.{name}" if prefix else name)


def describe_returned(returned: Any) -> str:
    """Word what a classifier returned: kinds, names and shapes."""
    if isinstance(returned, Tensor):
        return f"a {str(returned.dtype).split('.')[-1]} tensor of shape {tuple(returned.shape)}"
    entries = ", ".join(
        f"{name}: {_kind(value)}" if isinstance(returned, Mapping) else _kind(value)
        for name, value in _entries(returned)
    )
    return f"a {type(returned).__name__} of {entries or 'nothing'}"


def _entries(returned: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(returned, Mapping):
        yield from ((str(name), value) for name, value in returned.items())
    elif hasattr(returned, "_asdict"):  # a named tuple
        yield from returned._asdict().items()
    elif isinstance(returned, (tuple, list)):
        yield from ((str(number), value) for number, value in enumerate(returned))
    elif not isinstance(returned, Tensor) and hasattr(returned, "__dict__"):
        yield from ((name, value) for name, value in vars(returned).items() if not name.startswith("_"))


def _kind(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
