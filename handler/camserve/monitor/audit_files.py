"""The files of an audit log: private, rotated by size and age, the oldest of the folder deleted.

Several workers may share the folder. Each writes a file of its own and holds a lock on it while it is open, and
nobody deletes a locked file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from camserve.settings import AuditSpec

FILES = 8  # so many make up ``max_bytes``
FILE_SECONDS = 3600.0
PATTERN = "audit-*.jsonl"


class AuditFiles:
    """The files of one writer."""

    def __init__(self, spec: AuditSpec, lost: Callable[[], None]) -> None:
        """Open nothing yet. ``lost`` is called for every record that was written and then deleted by somebody else."""
        self._spec = spec
        self._lost = lost
        self._folder = Path(spec.directory)
        self._max_bytes = max(1, spec.max_bytes // FILES)
        self._file = -1
        self._path = self._folder
        self._size = 0
        self._records = 0
        self._opened = 0.0

    def write(self, line: bytes) -> None:
        """Append one line. OSError: it does not fit, or the folder cannot be written or is open to others."""
        if len(line) > self._max_bytes:
            raise OSError(f"a record of {len(line)} bytes does not fit into a file of {self._max_bytes}")
        is_full = self._size + len(line) > self._max_bytes
        if not self._in_place() or is_full or time.monotonic() - self._opened > FILE_SECONDS:
            self._open()
        if shutil.disk_usage(self._folder).free < self._spec.min_free_bytes:
            raise OSError(f"less than {self._spec.min_free_bytes} bytes are free in {self._folder}")
        written = os.write(self._file, line)
        self._size += written
        if written < len(line):
            self.close()
            raise OSError(f"the disk of {self._folder} is full")
        self._records += 1

    def close(self) -> None:
        """Close the current file, and count its records where it was deleted."""
        if self._file < 0:
            return
        if os.fstat(self._file).st_nlink == 0:
            for _ in range(self._records):
                self._lost()
        os.close(self._file)
        self._file = -1

    def _in_place(self) -> bool:
        """Whether a file is open and still stands under its name."""
        if self._file < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._file), os.lstat(self._path))
        except OSError:
            return False

    def _open(self) -> None:
        self.close()
        self._check_folder()
        self._make_room()
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        self._path = self._folder / f"audit-{os.getpid()}-{now}.jsonl"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size, self._records, self._opened = 0, 0, time.monotonic()

    def _check_folder(self) -> None:
        """Make the folder where it is missing. OSError: others may change what is in it."""
        if self._folder.is_symlink() and not self._folder.exists():
            raise OSError(f"{self._folder} is a link to a folder that is missing")
        if self._folder.exists() and not self._folder.is_dir():
            raise OSError(f"{self._folder} is no folder")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._folder.stat()
        if found.st_uid != os.geteuid():
            raise OSError(f"{self._folder} belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(f"others may write in {self._folder}: chmod 700 it, or name a new folder in it")

    def _make_room(self) -> None:
        """Delete the oldest closed files until a new one fits below the cap, or only open ones are left."""
        files = sorted((found.st_mtime, path, found.st_size) for path, found in self._regular_files())
        total = sum(size for _, _, size in files)
        for _, path, size in files:
            if total + self._max_bytes <= self._spec.max_bytes:
                break
            if _delete_closed(path):
                total -= size

    def _regular_files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self._folder.glob(PATTERN):
            with suppress(FileNotFoundError):  # another worker has deleted it
                found.append((path, os.lstat(path)))
        return [(path, status) for path, status in found if stat.S_ISREG(status.st_mode)]


def _delete_closed(path: Path) -> bool:
    """Delete a file unless a writer has it open; whether it is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return not path.exists()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except FileNotFoundError:
        return True
    except OSError:  # locked, or not ours to delete
        return False
    else:
        return True
    finally:
        os.close(file)
