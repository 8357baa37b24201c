"""Archives of a person's own that are measured, and copies of them that are changed for it and thrown away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from camserve.build.mar.file import extract_all
from camserve.build.mar.pack import zip_archive
from camserve.errors import ConfigError


def check_archives(archives: Sequence[Path], option: str, only_one: bool) -> None:
    """Refuse none, and several where ``only_one`` is measured, of archives that ``option`` measures (ConfigError)."""
    if not archives:
        raise ConfigError(f"{option} measures an archive of yours: name one, such as model_store/imagenet.mar")
    if only_one and len(archives) > 1:
        raise ConfigError(f"{option} measures one archive, not {len(archives)}")


def repack(archive: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """Return a copy of an archive in ``folder`` after ``change`` of its unpacked files. ConfigError: it is broken."""
    content = folder / "content"
    extract_all(archive, content)
    change(content)
    return zip_archive(content, folder / archive.name)
