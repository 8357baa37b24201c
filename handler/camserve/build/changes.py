"""What may be changed in a built archive's model-config.yaml, and what a change comes to."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from camserve.build.pairs import Pairs, read_value, set_value
from camserve.build.server_keys import SERVER_KEYS
from camserve.errors import ConfigError, nearest, quote
from camserve.settings import Settings, load_settings

CHANGEABLE = (
    "defaults",
    "limits",
    "methods",
    "monitoring",
    "runtime",
    "selftest",
    "show_samples",
)  # keys of the settings
ELSEWHERE = {
    "monitoring.baseline": "camserve baseline measures one",
    "monitoring.baseline_sha256": "camserve baseline measures one",
    "runtime.mode": "build the archive again, with runtime.mode in its recipe",
}


def change_config(config: Mapping[str, Any], pairs: Pairs) -> dict[str, Any]:
    """Return a model-config.yaml with changed values. ConfigError: a key cannot be changed, or a value is no YAML."""
    changed = copy.deepcopy(dict(config))
    for key, text in pairs:
        first, *inner = key.split(".")
        if key in ELSEWHERE:
            raise ConfigError(f"{key} belongs to the archive as it was built: {ELSEWHERE[key]}")
        if first in CHANGEABLE:
            set_value(changed["camserve"], (first, *inner), read_value(key, text))
        elif key.removeprefix("serving.") in SERVER_KEYS:
            set_value(changed, (key.removeprefix("serving."),), read_value(key, text))
        else:
            raise ConfigError(_refuse_key(key))
    return changed


def _refuse_key(key: str) -> str:
    if key.partition(".")[0] in (field.name for field in dataclasses.fields(Settings)):
        return f"{key} belongs to the network: build the archive again"
    known = (*CHANGEABLE, *SERVER_KEYS)
    return f"unknown key {quote(key)}{nearest(key, known)} (there are {', '.join(known)})"


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each value in force that two model-config.yaml give differently."""
    old, new = flatten_config(before), flatten_config(after)
    keys = sorted({*old, *new})
    return [f"{key}: {_show(old, key)} -> {_show(new, key)}" for key in keys if old.get(key) != new.get(key)]


def flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every value in force that may be changed, by its key."""
    settings = dataclasses.asdict(load_settings(config["camserve"]))
    blocks = {name: settings[name] for name in CHANGEABLE}
    server = {key: config[key] for key in SERVER_KEYS if key in config}
    return {**{key: value for key, value in _flatten("", blocks) if key not in ELSEWHERE}, **server}


def _flatten(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value)]
    return [pair for key, inner in value.items() for pair in _flatten(f"{name}.{key}" if name else key, inner)]


def _show(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) and value else json.dumps(value)
