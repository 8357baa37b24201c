"""Configuration files, read and checked against the rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from camserve.errors import ConfigError, nearest
from camserve.operate.doctor.findings import ADVICE, Finding
from camserve.operate.doctor.rules import KEYS, MODEL_RULES, RULES


def read_properties(path: Path) -> dict[str, str]:
    """Return the pairs of a config.properties; of repeated keys the last counts. ConfigError: it cannot be read."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith(("#", "!"))]
    return {name.strip(): value.strip() for name, value in pairs}


def check_properties(properties: Mapping[str, str], where: str) -> list[Finding]:
    """Return what a config.properties should say otherwise."""
    found = [
        Finding(rule.level, where, f"{rule.key}: {rule.risk}", rule.line)
        for rule in RULES
        if not rule.holds(properties.get(rule.key, rule.default))
    ]
    unknown = [key for key in properties if key not in KEYS]
    return found + [
        Finding(ADVICE, where, f"{key}: TorchServe knows no such key{nearest(key, KEYS)}", f"#{key}=")
        for key in unknown
    ]


def check_model(config: Mapping[str, object], where: str) -> list[Finding]:
    """Return what a model should say otherwise, from its model-config.yaml or the management side."""
    return [
        Finding(ADVICE, where, f"{key} is {config.get(key, default)}: {risk}", line)
        for key, default, holds, risk, line in MODEL_RULES
        if not holds(str(config.get(key, default)))
    ]
