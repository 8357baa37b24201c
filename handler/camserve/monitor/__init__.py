"""Watching a pipeline at work; nothing here can fail a request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Monitor:
    """Times the stages of one batch after another."""

    def __init__(self) -> None:
        """Start with no batch seen."""
        self.stages: dict[str, float] = {}

    def begin(self) -> None:
        """Forget the last batch."""
        self.stages = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time, in milliseconds, to the batch's ``stages``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + (time.perf_counter() - start) * 1000
