"""Lines on a terminal."""

from __future__ import annotations

import sys

from camserve.errors import printable


def say(line: str) -> None:
    """Print a line of progress to standard error, beside the results on standard output."""
    print(printable(line), file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Print results to standard output; no line of them can control a terminal."""
    for line in text.split("\n"):
        print(printable(line))
