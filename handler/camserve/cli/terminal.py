"""Lines and numbers of a command line: progress, results, and colours where a person looks."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TextIO

from camserve.errors import printable

INTERRUPTED = 128 + signal.SIGINT  # the exit status after Ctrl-C
RED, YELLOW, BOLD = 31, 33, 1  # SGR parameters


def say(line: str) -> None:
    """Print a line of progress to standard error, beside the results on standard output."""
    print(printable(line), file=sys.stderr, flush=True)


def paint(text: str, color: int, stream: TextIO | None = None) -> str:
    """Return a text in a colour if ``stream``, by default standard output, is a terminal that shows colours.

    It stays as it is where NO_COLOR is set (https://no-color.org).
    """
    is_shown = (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{color}m{text}\x1b[0m" if is_shown else text


def write(text: str) -> None:
    """Print results to standard output; no line of them can control a terminal."""
    for line in text.split("\n"):
        print(printable(line))


def count(text: str) -> int:
    """Read a number that is at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
