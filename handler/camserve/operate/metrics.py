"""A server's metrics.yaml: where it is, and how camserve's metrics get into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from camserve.errors import ConfigError
from camserve.operate.doctor.files import read_properties
from camserve.operate.shipped import SHIPPED_CONFIG, SHIPPED_METRICS

PREFIX = "cam_"  # of camserve's own metrics


def join_metrics(own: Mapping[str, Any], shipped: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a metrics file's block with camserve's metrics among its ``model_metrics``.

    ConfigError: it declares one of them with other dimensions.
    """
    joined = dict(own.get("model_metrics") or {})
    for kind, metrics in shipped["model_metrics"].items():
        known = {metric["name"]: metric for metric in joined.get(kind) or []}
        for metric in metrics:
            if not metric["name"].startswith(PREFIX):
                continue
            found = known.setdefault(metric["name"], metric)
            if found["dimensions"] != metric["dimensions"]:
                dimensions = ", ".join(metric["dimensions"])
                raise ConfigError(f"{name}: {metric['name']} has other dimensions than {dimensions}: leave it out")
        joined[kind] = list(known.values())
    return {**own, "model_metrics": joined}


def find_undeclared(own: Mapping[str, Any]) -> list[str]:
    """Return the names of camserve's metrics that a metrics file's block lacks or declares otherwise."""
    known = _declarations(own)
    shipped = _declarations(read_metrics(SHIPPED_METRICS))
    return [name for name, declared in shipped.items() if name.startswith(PREFIX) and known.get(name) != declared]


def _declarations(block: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the kind and the dimensions of a block's model metrics, by name."""
    return {
        metric["name"]: (kind, tuple(metric["dimensions"]))
        for kind, metrics in (block.get("model_metrics") or {}).items()
        for metric in metrics or []
    }


def read_metrics(path: Path) -> dict[str, Any]:
    """Return the block of a metrics.yaml. ConfigError: there is no such file, or it declares no metrics."""
    try:
        block = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(block, dict) or "ts_metrics" not in block:
        raise ConfigError(f"{path} is no TorchServe metrics.yaml: it has no 'ts_metrics'")
    try:
        _declarations(block)
    except (AttributeError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: model_metrics must hold lists of {{name, unit, dimensions}} under counter, gauge or histogram"
        ) from None
    return block


def find_metrics(config: Path) -> Path | None:
    """Return the metrics file that a config.properties names, or None. ConfigError: there is no such file.

    TorchServe itself runs in another folder, and so needs the full path.
    """
    name = read_properties(config).get("metrics_config")
    if name is None:
        return None
    places = [Path(name), config.parent / Path(name).name]
    if config == SHIPPED_CONFIG:
        places.reverse()  # its own file, whatever lies in the folder that the command is run in
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(f"{config}: metrics_config: there is no file {name}")
    return path


def metrics_line(config: Path) -> dict[str, str]:
    """Return the line of a config.properties that names its metrics file by its full path; nothing without one."""
    path = find_metrics(config)
    return {} if path is None else {"metrics_config": str(path.resolve())}
