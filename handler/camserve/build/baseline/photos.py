"""Finding photos on a disk."""

from __future__ import annotations

from pathlib import Path

from camserve.errors import ConfigError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}


def list_images(folder: Path) -> list[Path]:
    """Return the photos of a folder and its subfolders, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def find_images(folder: Path) -> list[Path]:
    """Return the same. ConfigError: there are none."""
    images = list_images(folder)
    if not images:
        raise ConfigError(f"there are no photos in {folder}")
    return images
