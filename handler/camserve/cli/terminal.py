"""Progress on a terminal."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line of progress to standard error, beside the results on standard output."""
    print(line, file=sys.stderr, flush=True)
