"""An archive's files, for as long as it is served."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from camserve.build.archive_file import extract_all
from camserve.build.unpack import Contents, read_contents


def unpack(path: Path, stack: ExitStack) -> tuple[Contents, Path]:
    """Return what an archive holds and the folder of its files, which ``stack`` deletes. ConfigError: it is broken."""
    contents = read_contents(path)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="camserve-")))
    extract_all(path, folder)
    return contents, folder
