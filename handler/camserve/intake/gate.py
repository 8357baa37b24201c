"""How many pictures are decoded at once: as many as fit into a share of the memory."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from camserve.errors import Overloaded


class MemoryGate:
    """Lets threads hold so many bytes together; what is larger than that is let in alone."""

    def __init__(self, size: int) -> None:
        """Stand open for ``size`` bytes."""
        self.size = size
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, weight: int, until: float = math.inf) -> Iterator[None]:
        """Hold ``weight`` bytes for the block. Overloaded: there was no room before ``until`` of time.monotonic()."""
        with self._changed:
            patience = None if math.isinf(until) else max(0.0, until - time.monotonic())
            if not self._changed.wait_for(lambda: self._has_room(weight), patience):
                raise Overloaded("other large pictures came first, and the time to wait for them is over: try again")
            self._held += weight
        try:
            yield
        finally:
            with self._changed:
                self._held -= weight
                self._changed.notify_all()

    def _has_room(self, weight: int) -> bool:
        return self._held == 0 or self._held + weight <= self.size
