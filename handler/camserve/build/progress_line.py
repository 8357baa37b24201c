"""How far a run is, how fast, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

EVERY = 0.2  # seconds between two lines on a terminal
EVERY_IN_A_LOG = 30.0  # and in a file
WINDOW = 200  # steps that the rate is taken from


class ProgressLine:
    """Counts the pictures of a run and shows them on standard error."""

    def __init__(self, total: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with ``total`` pictures to ask about."""
        self.total, self.done, self.failed = total, 0, 0
        self._stream, self._clock = stream or sys.stderr, clock
        self._is_terminal = self._stream.isatty()
        self._steps = deque([(clock(), 0)], WINDOW)
        self._shown = clock()

    def add(self, done: int, failed: int) -> None:
        """Count so many pictures more, ``failed`` of which have an error."""
        self.done, self.failed = self.done + done, self.failed + failed
        now = self._clock()
        self._steps.append((now, self.done))
        if now - self._shown >= (EVERY if self._is_terminal else EVERY_IN_A_LOG):
            self._shown = now
            self._write(self.line())

    def line(self) -> str:
        """Return what is shown."""
        (start, before), (end, now) = self._steps[0], self._steps[-1]
        rate = (now - before) / (end - start) if end > start else 0.0
        left = f", {format_seconds((self.total - self.done) / rate)} left" if rate else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.total} pictures, {rate:.1f}/s{left}{failed}"

    def clear(self) -> None:
        """Take the line off a terminal."""
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, line: str) -> None:
        self._stream.write(f"\r{line}\x1b[K" if self._is_terminal else f"{line}\n")
        self._stream.flush()


def format_seconds(seconds: float) -> str:
    """Return a time in words: 42 s, 3 min, 5 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
