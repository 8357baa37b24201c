"""Reading a .mar without a server."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from camserve.drift.counts import Version
from camserve.errors import ConfigError
from camserve.monitor.baseline import Baseline, read_baseline
from camserve.settings import Settings, load_settings

if TYPE_CHECKING:
    from camserve.serving.pipeline import Pipeline


@dataclass(frozen=True)
class Contents:
    """The manifest and settings of a .mar."""

    name: str
    version: str
    settings: Settings
    config: dict[str, Any]  # model-config.yaml
    sizes: dict[str, int]  # file -> bytes


def read_contents(path: Path) -> Contents:
    """Return a .mar's manifest and settings. ConfigError: it is no archive of camserve's."""
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


def baseline_of(path: Path) -> tuple[Version, Baseline]:
    """Return an archive's version and its baseline. ConfigError: it has none."""
    contents = read_contents(path)
    name = contents.settings.monitoring.baseline
    if name is None:
        raise ConfigError(f"{path} has no baseline: camserve baseline {path} --images DIR")
    with zipfile.ZipFile(path) as archive:
        return Version(contents.name, contents.version), read_baseline(archive.read(name))


@contextmanager
def open_archive(path: Path, baseline: bool = True) -> Iterator[Pipeline]:
    """Yield the pipeline of a .mar, loaded in this process, on a GPU if there is one.

    Without ``baseline`` its own baseline is not read, so that another can be made. ConfigError: it does not load.
    """
    # Reading what an archive says needs no torch.
    import torch

    from camserve.serving.load import load_archive

    contents = read_contents(path)
    settings = contents.settings
    if not baseline:
        settings = replace(settings, monitoring=replace(settings.monitoring, baseline=None))
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="camserve-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        yield load_archive(Path(folder), settings, contents.name, contents.version, device)
