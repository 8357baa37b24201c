"""How many cores a process has, and how many of them torch takes in a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in each period, or "max"


def count_cores() -> int:
    """Return how many whole cores this process may use: of its affinity, within its container's limit."""
    return max(1, min([len(os.sched_getaffinity(0)), *_quota()]))


def count_threads(workers: int) -> int:
    """Return the share of one of so many workers in the cores that they may use, at most ``OMP_NUM_THREADS``."""
    return max(1, min([count_cores() // max(1, workers), *_said()]))


def _quota() -> list[int]:
    with suppress(OSError, ValueError):  # no cgroup v2, or no limit
        quota, period = map(int, CPU_MAX.read_text(encoding="ascii").split())
        return [quota // period]
    return []


def _said() -> list[int]:
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # of nested levels
    return [int(first)] if first.isdecimal() and int(first) else []


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in the calling thread alone."""
    import torch  # here: workers count cores before they import it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
