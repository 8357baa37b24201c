"""How many cores a process has, and how many of them torch takes in a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # of a container
# Microseconds in each period, or "max" or -1: of cgroup v2, and of v1.
QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def count_cores() -> int:
    """Return how many whole cores this process may use: of its affinity, within its container's limit."""
    return max(1, min([len(os.sched_getaffinity(0)), *_quota()]))


def count_threads(workers: int) -> int:
    """Return the share of one of so many workers in the cores that they may use, at most ``OMP_NUM_THREADS``."""
    return max(1, min([count_cores() // max(1, workers), *_said()]))


def _quota() -> list[int]:
    for files in QUOTAS:
        with suppress(OSError, ValueError):  # no such cgroup, or no limit
            text = " ".join((CGROUP / file).read_text(encoding="ascii") for file in files)
            quota, period = map(int, text.split())
            return [quota // period] if quota > 0 else []
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
