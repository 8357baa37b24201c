"""Reading a .mar without a server."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from camserve.errors import ConfigError
from camserve.serving.load import load_archive
from camserve.serving.pipeline import Pipeline
from camserve.settings import Settings, load_settings


@dataclass(frozen=True)
class Contents:
    """What a .mar says of itself."""

    name: str
    version: str
    settings: Settings
    config: dict[str, Any]  # model-config.yaml
    sizes: dict[str, int]  # file -> bytes


def read_contents(path: Path) -> Contents:
    """Read a .mar's manifest and settings. ConfigError: it is no archive of camserve's."""
    try:
        with zipfile.ZipFile(path) as archive:
            model = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
            config = yaml.safe_load(archive.read("model-config.yaml"))
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not an archive of camserve's: {error}") from None
    return Contents(model["modelName"], model["modelVersion"], load_settings(config.get("camserve")), config, sizes)


@contextmanager
def open_archive(path: Path, baseline: bool = True) -> Iterator[Pipeline]:
    """Load a .mar in this process, on a GPU if there is one. ConfigError: one line says what is wrong.

    Without ``baseline`` the one that it may carry is not read, so that another can be made.
    """
    contents = read_contents(path)
    settings = contents.settings
    if not baseline:
        settings = replace(settings, monitoring=replace(settings.monitoring, baseline=None))
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="camserve-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        yield load_archive(Path(folder), settings, contents.name, contents.version, device)
