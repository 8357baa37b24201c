"""Reading pictures from the disk, ahead of whoever asks about them."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from camserve.bulk.remote import is_remote, read_remote
from camserve.bulk.sources import Photo
from camserve.errors import ConfigError, TooManyBytes, first_line

THREADS = 4
AHEAD, AHEAD_BYTES = 64, 256_000_000  # pictures in memory, and what their files have together
MOST_BYTES = 100_000_000  # of a picture whose archive's limit is not known
UNREADABLE = "unreadable"  # the code of a picture that cannot be read


@dataclass(frozen=True)
class Loaded:
    """A picture's bytes, or why there are none."""

    photo: Photo
    content: bytes = b""
    code: str = ""  # of the error; empty: there is none
    message: str = ""


def read_ahead(photos: Iterable[Photo], most_bytes: int = MOST_BYTES) -> Iterator[Loaded]:
    """Yield the pictures in order, some of them read ahead; longer ones than ``most_bytes`` are refused."""
    waiting: deque[tuple[int, Future[Loaded]]] = deque()
    held = 0
    with ThreadPoolExecutor(THREADS, "read") as threads:
        for photo in photos:
            size = _size(photo, most_bytes)
            while waiting and (len(waiting) == AHEAD or held + size > AHEAD_BYTES):
                freed, first = waiting.popleft()
                held -= freed
                yield first.result()
            waiting.append((size, threads.submit(load, photo, most_bytes)))
            held += size
        while waiting:
            yield waiting.popleft()[1].result()


def _size(photo: Photo, most_bytes: int) -> int:
    """Return how many bytes of a picture will be in memory, as far as its file is here."""
    if is_remote(photo.path):
        return 0
    try:
        size = os.stat(photo.path).st_size
    except (OSError, ValueError):
        return 0
    return size if size <= most_bytes else 0


def load(photo: Photo, most_bytes: int = MOST_BYTES) -> Loaded:
    """Return a picture's bytes, or why it cannot be read."""
    try:
        if is_remote(photo.path):
            content = read_remote(photo.path, most_bytes)
            return _too_long(photo, len(content), most_bytes) or Loaded(photo, content)
        with open(photo.path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Loaded(photo, code=UNREADABLE, message="it is no file")
            return _too_long(photo, status.st_size, most_bytes) or Loaded(photo, file.read(status.st_size))
    except (OSError, ValueError, ConfigError) as error:
        return Loaded(photo, code=UNREADABLE, message=getattr(error, "strerror", None) or first_line(error))


def _too_long(photo: Photo, length: int, most_bytes: int) -> Loaded | None:
    if length <= most_bytes:
        return None
    return Loaded(photo, code=TooManyBytes.code, message=f"the picture has over {most_bytes} bytes, which is the limit")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for whoever writes to it
