"""The files of an audit log: private, rotated by size and age, the oldest of the folder deleted."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from camserve.settings import AuditSpec

FILES = 8  # so many make up ``max_bytes``
FILE_SECONDS = 3600.0
PATTERN = "audit-*.jsonl"


class AuditFiles:
    """The files of one writer."""

    def __init__(self, spec: AuditSpec) -> None:
        """Open nothing yet."""
        self._spec = spec
        self._folder = Path(spec.directory)
        self._max_bytes = max(1, spec.max_bytes // FILES)
        self._file = -1
        self._path = self._folder
        self._size = 0
        self._opened = 0.0

    def write(self, line: bytes) -> None:
        """Append one line. OSError: it does not fit, or the folder cannot be written."""
        if len(line) > self._max_bytes:
            raise OSError(f"a record of {len(line)} bytes does not fit into a file of {self._max_bytes}")
        is_full = self._size + len(line) > self._max_bytes
        if self._file < 0 or is_full or time.monotonic() - self._opened > FILE_SECONDS:
            self._open()
        if shutil.disk_usage(self._folder).free < self._spec.min_free_bytes:
            raise OSError(f"less than {self._spec.min_free_bytes} bytes are free in {self._folder}")
        written = os.write(self._file, line)
        self._size += written
        if written < len(line):
            self.close()
            raise OSError(f"the disk of {self._folder} is full")

    def close(self) -> None:
        """Close the current file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        self.close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room()
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        self._path = self._folder / f"audit-{os.getpid()}-{now}.jsonl"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size, self._opened = 0, time.monotonic()

    def _make_room(self) -> None:
        """Delete the oldest files until a new one fits below the cap."""
        files = sorted((path.stat().st_mtime, path) for path in self._folder.glob(PATTERN))
        total = sum(path.stat().st_size for _, path in files)
        for _, path in files:
            if total + self._max_bytes <= self._spec.max_bytes:
                break
            total -= path.stat().st_size
            with suppress(FileNotFoundError):  # another worker has deleted it
                path.unlink()
