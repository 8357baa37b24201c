"""The heap of a worker, where the C library is glibc; elsewhere nothing is changed."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1  # of malloc.h
KEPT_BYTES = 512 * 2**20  # free bytes at the end of the heap that are kept; those between blocks all are
SPARE_BYTES = 128 * 2**20  # that a process may grow by before its free memory is returned

_limit = 0  # resident bytes of this process; 0: none


def share_heap() -> None:
    """Let all threads that begin from now on reuse one another's buffers: to be called before a network is loaded."""
    _set(M_ARENA_MAX, 1)


def keep_heap() -> None:
    """Return free memory to the system, and from now on keep it: to be called once a network is loaded.

    glibc gives every block of 32 MB and more back when it is freed, and the system clears it page by page when it is
    asked for again: a sixth of the time of 8 pictures in EfficientNet-Lite0, whose widest layer is 38 MB then, and half
    of that of 32. So a worker keeps what its largest batch took.
    """
    trim_heap()
    _set(M_MMAP_MAX, 0)
    _set(M_TRIM_THRESHOLD, KEPT_BYTES)


def limit_heap(least: int = 0) -> None:
    """Set the most that ``trim_grown_heap`` leaves: what is resident now and a little more, or ``least`` bytes."""
    global _limit
    with suppress(OSError):
        _limit = max(_resident() + SPARE_BYTES, least, _limit)


def trim_grown_heap() -> None:
    """Return all free memory to the system where this process has grown beyond its limit; without one, do nothing.

    One batch of rare pictures or methods would otherwise be kept for good, at the cost of whoever shares the machine.
    """
    with suppress(OSError):
        if _limit and _resident() > _limit:
            trim_heap()
            limit_heap()  # what is in use stays: to trim again for it is of no use


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trim_heap() -> None:
    """Return all free memory to the system, wherever in the heap it lies."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(parameter: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(parameter, value)
