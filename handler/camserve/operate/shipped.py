"""The files of config/, which travel in the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

# TorchServe and Prometheus read these by path: the package must be unpacked, as pip installs it.
CONFIG_FOLDER = Path(str(files("camserve").joinpath("config")))
SHIPPED_CONFIG = CONFIG_FOLDER / "config.properties"
SHIPPED_METRICS = CONFIG_FOLDER / "metrics.yaml"
