"""Files of an archive: their hashes, and where they may lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

from camserve.errors import ConfigError, quote


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex. ConfigError: it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise ConfigError(f"cannot read {path.name}: {error.strerror}") from None
    return digest.hexdigest()


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of the archive. ConfigError: it lies outside or is missing."""
    path = None if "\0" in name else (folder / name).resolve()
    if path is None or folder.resolve() not in path.parents:
        raise ConfigError(f"{quote(name)} does not lie inside the archive")
    if not path.is_file():
        raise ConfigError(f"the archive has no file {quote(name)}")
    return path
