"""Archives of a person's own that are measured, and copies of them that are changed for it and thrown away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from camserve.build.mar.file import extract_all
from camserve.build.mar.pack import zip_archive
from camserve.errors import ConfigError

MOST_ARCHIVES = {"batching": 1, "profile": 8}  # of a benchmark; others build theirs


def check_archives(archives: Sequence[Path], benchmark: str) -> None:
    """Refuse archives that a benchmark does not measure, and none where it needs one (ConfigError)."""
    most = MOST_ARCHIVES.get(benchmark, 0)
    if most and not archives:
        raise ConfigError(f"--{benchmark} measures an archive of yours: name one, such as model_store/imagenet.mar")
    if len(archives) > most:
        raise ConfigError(
            f"--{benchmark} measures {most or 'no'} archive{'s' * (most != 1)} of yours, not {len(archives)}"
        )


def repack(archive: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """Return a copy of an archive in ``folder`` after ``change`` of its unpacked files. ConfigError: it is broken."""
    content = folder / "content"
    extract_all(archive, content)
    change(content)
    return zip_archive(content, folder / archive.name)
