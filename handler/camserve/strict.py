"""From a mapping to a dataclass, strictly: an unknown key, a missing one or a wrong type is a ConfigError."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, Union

from camserve.errors import QUOTE_LIMIT, ConfigError, nearest, quote, unknown_choice

Spec = TypeVar("Spec")


def read(spec: type[Spec], block: object, where: str) -> Spec:
    """Build the dataclass ``spec`` from a mapping, refusing unknown keys and wrong types."""
    if not isinstance(block, Mapping):
        raise ConfigError(f"{where} must be a block of keys, not {_describe_value(block)}")
    fields = {field.name: field for field in dataclasses.fields(spec)}  # type: ignore[arg-type]
    for key in block:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {quote(key)}{nearest(str(key), fields)}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in block and not optional:
            raise ConfigError(f"{where}.{name} is missing")
    hints = typing.get_type_hints(spec)
    values = {key: _convert(value, hints[key], f"{where}.{key}") for key, value in block.items()}
    try:
        return spec(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with ``message`` unless ``holds``."""
    if not holds:
        raise ConfigError(message)


def require_choice(value: object, known: Collection[object], where: str) -> None:
    """Raise ConfigError, which names the valid values, unless ``value`` is one of ``known``."""
    require(value in known, unknown_choice(value, map(str, known), where))


def require_ranges(spec: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise ConfigError, which names the range, unless each number of a dataclass lies in its own; None passes."""
    for name, (least, most) in ranges.items():
        value = getattr(spec, name)
        # NaN is in no range.
        require(
            value is None or least <= value <= most,
            f"{name} must be {least:,} to {most:,}, not {str(value)[:QUOTE_LIMIT]}",
        )


def _convert(value: object, hint: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Union:
        return _convert_union(value, inner, where)
    if dataclasses.is_dataclass(hint):
        return read(typing.cast("type[Any]", hint), value, where)
    if origin is tuple:
        return _convert_tuple(value, inner, where)
    if origin is dict:
        if isinstance(value, Mapping):
            return {str(key): _convert(entry, inner[1], f"{where}.{key}") for key, entry in value.items()}
    elif hint is float and type(value) in (int, float):
        return float(typing.cast(float, value))
    elif type(value) is hint:  # a bool is no int here
        return value
    raise ConfigError(f"{where} must be {_describe_type(hint)}, not {_describe_value(value)}")


def _convert_union(value: object, choices: tuple[Any, ...], where: str) -> Any:
    for choice in choices:
        if dataclasses.is_dataclass(choice) and isinstance(value, Mapping):
            return _convert(value, choice, where)  # its own message names the key
        try:
            return value if choice is type(None) and value is None else _convert(value, choice, where)
        except ConfigError:
            continue
    raise ConfigError(
        f"{where} must be {' or '.join(_describe_type(choice) for choice in choices)}, not {_describe_value(value)}"
    )


def _convert_tuple(value: object, inner: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list, not {_describe_value(value)}")
    open_ended = len(inner) == 2 and inner[1] is Ellipsis
    if not open_ended and len(value) != len(inner):
        raise ConfigError(f"{where} must be a list of {len(inner)}, not of {len(value)}")
    hints = [inner[0]] * len(value) if open_ended else inner
    return tuple(_convert(entry, hint, f"{where}[{at}]") for at, (entry, hint) in enumerate(zip(value, hints)))


def _describe_type(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(hint, "a list" if typing.get_origin(hint) is tuple else "a block of keys")


def _describe_value(value: object) -> str:
    return "nothing" if value is None else f"the {type(value).__name__} {quote(value)}"
