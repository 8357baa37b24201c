"""Files that a command writes: with the folders that they need, and whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from camserve.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Write a file and the folders that it needs. ConfigError: it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def remove_unfinished(folder: Path, names: str) -> None:
    """Remove what killed processes left of files whose names fit a pattern; nobody may be writing them now."""
    for unfinished in folder.glob(f".{names}.*.part"):
        unfinished.unlink()


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make a file under another name, which becomes ``path`` when it is safe on the disk, or never."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:  # Ctrl-C too
        with suppress(OSError):
            unfinished.unlink()
