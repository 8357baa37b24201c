"""Settings as a person writes them on a command line: ``limits.max_targets=10``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from camserve.errors import ConfigError, quote

Pairs = Sequence[tuple[str, str]]  # a key with dots in it, and its value in YAML


def read_pair(text: str) -> tuple[str, str]:
    """Return key and value. ConfigError: it is no ``KEY=VALUE``."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"{quote(text)} is no KEY=VALUE, such as defaults.method=layercam")
    return key, value


def read_value(key: str, text: str) -> Any:
    """Return a value: defaults are the texts of a request, methods a list, all else is YAML. ConfigError: it is not."""
    if key.startswith("defaults."):
        return text
    if key == "methods" and not text.startswith("["):
        return [name.strip() for name in text.split(",")]
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {quote(text)} is no YAML: {' '.join(str(error).split())}") from None


def set_value(block: dict[str, Any], way: Sequence[str], value: Any) -> None:
    """Set the value at the end of a way of keys; blocks that are not there yet are made."""
    *outer, last = way
    for key in outer:
        if not isinstance(block.get(key), dict):
            block[key] = {}
        block = block[key]
    block[last] = value
