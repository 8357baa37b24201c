"""A changed copy of an archive that is measured and thrown away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from camserve.build.mar.file import extract_all
from camserve.build.mar.pack import zip_archive


def repack(archive: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """Return a copy of an archive in ``folder`` after ``change`` of its unpacked files. ConfigError: it is broken."""
    content = folder / "content"
    extract_all(archive, content)
    change(content)
    return zip_archive(content, folder / archive.name)
