"""A stranger's .mar, read within limits: sizes before contents, no path out of it, no YAML that unfolds.

A few hundred bytes of a zip or of YAML can stand for gigabytes, and both name files as they like.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from camserve.errors import CamserveError, ConfigError, first_line, quote

MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = "model-config.yaml"
MOST_FILES = 20_000
MOST_TEXT = 256_000  # bytes of the manifest, and of the settings
MOST_JSON = 64_000_000  # bytes of any other file that is read into memory
MOST_RATIO = 100  # of what an archive unpacks to, to its own size
SMALL = 1_000_000_000  # bytes, up to which that does not matter
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# A file outside the archive, or a second name of one inside.
OUTSIDE = re.compile(r"(?:.*/)?\.{1,2}(?:/.*)?|.*//.*|[/\\].*|[A-Za-z]:.*|.*[\\\0].*", re.DOTALL)
OWN = ("camserve/", "gradcam_handler.py")  # our code in an archive, which needs nothing else
ENCRYPTED = 0x1  # of an entry's flags


@contextmanager
def open_mar(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose entries lie inside it and unpack to a size that fits its own.

    ConfigError: it cannot be read, or what is read of it in the block is broken.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive.infolist(), path.stat().st_size)
            yield archive
    except CamserveError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # zipfile, zlib, json and yaml raise nearly anything
        raise ConfigError(f"{path} is not an archive that camserve reads: {first_line(error)}") from None


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    _require(len(names) <= MOST_FILES, f"it holds more than {MOST_FILES} files")
    _require(len(set(names)) == len(names), "a file is in it twice")
    for entry in entries:
        if fault := _fault_of(entry):
            raise ValueError(f"{quote(entry.filename)} {fault}")
    _require(sum(entry.compress_size for entry in entries) <= size, "its files overlap")
    unpacked = sum(entry.file_size for entry in entries)
    _require(unpacked <= max(SMALL, MOST_RATIO * size), f"it would unpack to {unpacked / 1e9:.0f} GB")


def _fault_of(entry: zipfile.ZipInfo) -> str:
    """Return what is wrong with an entry; "": nothing is."""
    if OUTSIDE.fullmatch(entry.filename):
        return "would lie outside it"
    if entry.compress_type not in METHODS:
        return "is compressed in another way than deflate"
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    is_stored = entry.compress_type == zipfile.ZIP_STORED
    return "has two sizes" if is_stored and entry.file_size != entry.compress_size else ""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def read_member(archive: zipfile.ZipFile, name: str, most: int = MOST_JSON) -> bytes:
    """Return a file of an archive of at most ``most`` bytes. ValueError, which ``open_mar`` words: it is not there."""
    if name not in archive.namelist():
        raise ValueError(f"it has no file {quote(name)}")
    size = archive.getinfo(name).file_size
    _require(size <= most, f"{quote(name)} has {size} bytes, and {most} are read")
    return archive.read(name)


def check_sizes(path: Path) -> None:
    """Unpack an archive to nowhere. ConfigError: a file of it is broken, or not as long as it says."""
    with open_mar(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                found = sum(len(block) for block in iter(partial(file.read, 1 << 20), b""))
            _require(found == entry.file_size, f"{quote(entry.filename)} has two sizes")


def extract_all(path: Path, folder: Path, leave: tuple[str, ...] = ()) -> None:
    """Unpack an archive, but for the files whose names begin so. ConfigError: it is broken, or a file lies outside."""
    with open_mar(path) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if not name.startswith(leave)])


def read_manifest(archive: zipfile.ZipFile) -> Mapping[str, Any]:
    """Return what a manifest says of its model; name and version are texts. ValueError: it says none."""
    try:
        block = json.loads(read_member(archive, MANIFEST, MOST_TEXT))
    except json.JSONDecodeError as error:
        raise ValueError(f"{MANIFEST} is not JSON: {error}") from None
    model = block.get("model") if isinstance(block, dict) else None
    for key in ("modelName", "modelVersion"):
        _require(isinstance(model, dict) and isinstance(model.get(key), str), f"its {MANIFEST} has no {key}")
    assert isinstance(model, dict)
    return model


def read_config(archive: zipfile.ZipFile, name: str = CONFIG) -> dict[str, Any]:
    """Return the keys of a model-config.yaml. ValueError: it is no YAML, or no block of keys."""
    try:
        config = yaml.load(read_member(archive, name, MOST_TEXT), _PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    _require(isinstance(config, dict), f"{name} is no block of keys")
    assert isinstance(config, dict)
    return config


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: ten lists of ten aliases each stand for ten thousand million entries."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*): write the value out")
        return super().compose_node(parent, index)
