"""Progress on a terminal, and numbers of a command line."""

from __future__ import annotations

import argparse
import sys

from camserve.errors import printable


def say(line: str) -> None:
    """Print a line of progress to standard error, beside the results on standard output."""
    print(printable(line), file=sys.stderr, flush=True)


def count(text: str) -> int:
    """Read a number that is at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
