"""Logs that nobody outside can write.

TorchServe reads its worker's standard output line by line, and believes lines that begin with
``[METRICS]`` or ``[PID]``. Text of a caller that reaches a log, in a traceback say, must not be
able to begin a line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TextIO

METRIC_EMITTER = "ts/metrics/caching_metric.py"
MARKS = ("[METRICS]", "[PID]")


def guard_logs() -> None:
    """Send all that this process logs, prints or warns through ``one_line``, but for TorchServe's own metrics."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(_Guarded(handler.formatter or logging.Formatter()))
    sys.stdout = _Stream(sys.stdout)
    sys.stderr = _Stream(sys.stderr)


def one_line(text: str) -> str:
    """Return the text with its lines folded into one and its control characters and marks made harmless."""
    folded = " | ".join(text.splitlines())
    for mark in MARKS:
        folded = folded.replace(mark, f"({mark[1:-1]})")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in folded)


class _Guarded(logging.Formatter):
    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        return text if record.pathname.replace("\\", "/").endswith(METRIC_EMITTER) else one_line(text)


class _Stream:
    """A text stream whose every write is harmless; whole lines stay lines."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        ends = "\n" if text.endswith("\n") else ""
        self._inner.write(f"{one_line(text)}{ends}")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)
