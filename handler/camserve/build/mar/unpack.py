"""Reading a .mar without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camserve.build.mar.file import OWN, extract_all, open_mar, read_config, read_manifest, read_member
from camserve.drift.version import Version
from camserve.errors import ConfigError, quote
from camserve.labels import Labels
from camserve.output_spec import Head, line_up
from camserve.settings import Settings, load_settings
from camserve.values import Progress

if TYPE_CHECKING:
    from camserve.monitor.baseline import Baseline
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
    with open_mar(path) as archive:
        model, config = read_manifest(archive), read_config(archive)
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    return Contents(model["modelName"], model["modelVersion"], load_settings(config.get("camserve")), config, sizes)


def read_heads(path: Path, contents: Contents) -> tuple[Head, ...]:
    """Return the outputs of a .mar with their labels. ConfigError: the labels cannot be read."""
    with open_mar(path) as archive:
        texts = [read_member(archive, output.labels).decode("utf-8-sig") for output in contents.settings.outputs]
    return line_up(contents.settings.outputs, [Labels(text.splitlines()) for text in texts])


def baseline_of(path: Path) -> tuple[Version, Baseline]:
    """Return an archive's version and its baseline. ConfigError: it has none."""
    # Most of what reads an archive needs no numpy, and starts sooner without.
    from camserve.monitor.baseline import read_baseline

    contents = read_contents(path)
    name = contents.settings.monitoring.baseline
    if name is None:
        raise ConfigError(f"{path} has no baseline: camserve baseline {path} --images DIR")
    with open_mar(path) as archive:
        return Version(contents.name, contents.version), read_baseline(read_member(archive, name))


def check_names(paths: Sequence[Path], report: Progress) -> list[Path]:
    """Return archives that are served together, each once: no two share an address, or a name and version.

    ``report`` gets a line for an archive that its file does not name. ConfigError: one is no archive, or two are alike.
    """
    served = _by_address(paths)
    known: dict[Version, Path] = {}
    for path in dict.fromkeys(path.resolve() for path in paths):
        with open_mar(path) as archive:
            model = read_manifest(archive)
        version = Version(model["modelName"], model["modelVersion"])
        if other := known.get(version):
            raise ConfigError(
                f"{other.name} and {path.name} are both {quote(str(version))}, so that nobody can tell their answers "
                "and counters apart: build one of them with another --name or --version"
            )
        known[version] = path
        if version.model != path.stem:
            report(f"{path.name}: its address is {path.stem}, and its answers and counters say {version.model}")
    return served


def _by_address(paths: Sequence[Path]) -> list[Path]:
    known: dict[str, Path] = {}
    for path in paths:
        other = known.setdefault(path.stem, path)
        if other.resolve() != path.resolve():
            raise ConfigError(f"{other} and {path} would both answer at {path.stem}: rename one of the files")
    return list(known.values())


@contextmanager
def unpacked(path: Path, leave: tuple[str, ...] = ()) -> Iterator[tuple[Contents, Path]]:
    """Yield what a .mar holds and the folder of its files, which is deleted afterwards. ConfigError: it is broken.

    Files whose names begin with one of ``leave`` are not unpacked.
    """
    contents = read_contents(path)
    with tempfile.TemporaryDirectory(prefix="camserve-") as folder:
        extract_all(path, Path(folder), leave)
        yield contents, Path(folder)


@contextmanager
def open_archive(path: Path, baseline: bool = True) -> Iterator[Pipeline]:
    """Yield the pipeline of a .mar, loaded in this process, on a GPU if there is one.

    Without ``baseline`` its own baseline is not read, so that another can be made. ConfigError: it does not load.
    """
    with unpacked(path, leave=OWN) as (contents, folder):  # this process runs the code that is installed
        settings = contents.settings
        if not baseline:
            settings = replace(settings, monitoring=replace(settings.monitoring, baseline=None))
        yield load_unpacked(folder, replace(contents, settings=settings))


def load_unpacked(folder: Path, contents: Contents) -> Pipeline:
    """Return the pipeline of an unpacked .mar, on a GPU if there is one. ConfigError: it does not load."""
    # Reading what an archive says needs no torch.
    from camserve.serving.load import device_of, load_archive

    return load_archive(folder, contents.settings, contents.name, contents.version, device_of(0))
