"""Progress on a terminal."""

from __future__ import annotations

import sys

from camserve.errors import printable


def say(line: str) -> None:
    """Print a line of progress to standard error, beside the results on standard output."""
    print(printable(line), file=sys.stderr, flush=True)
