"""The files of an archive, once a machine for all processes that load it.

Ray kills its processes, so that none of them can delete a folder of its own. Ray gets this module by value: nothing of
camserve may be imported here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO


def unpack_once(archive: BinaryIO) -> Path:
    """Return a folder with the files of an archive, named by its hash; it stays.

    PermissionError: somebody else has made a folder of this name.
    """
    digest = hashlib.sha256()
    for block in iter(lambda: archive.read(1 << 20), b""):
        digest.update(block)
    folder = Path(tempfile.gettempdir(), f"camserve-{os.getuid()}-{digest.hexdigest()}")
    if not folder.is_dir():
        _unpack(archive, folder)
    # What lies there is run: a stranger who knows the archive could have put it there.
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's alone: delete it")
    return folder


def _unpack(archive: BinaryIO, folder: Path) -> None:
    fresh = tempfile.mkdtemp(prefix="camserve-", dir=folder.parent)
    try:
        with zipfile.ZipFile(archive) as whole:
            whole.extractall(fresh)
        os.rename(fresh, folder)  # whole or not at all
    except OSError:
        if not folder.is_dir():
            raise  # else another process was quicker
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
