"""A process of its own that says a line when this one ends without a word, as Ray's libraries end it.

This file runs by itself, with nothing but the standard library.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

RELEASE = b"."


class LastWord:
    """Says a line on standard error once this process is gone."""

    def __init__(self, line: str) -> None:
        """Start to watch: the other end of a pipe closes when this process ends, however that is."""
        command = [sys.executable, "-I", "-S", __file__, line]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def close(self) -> None:
        """Say nothing."""
        with suppress(BrokenPipeError):
            self._process.communicate(RELEASE)


if __name__ == "__main__" and RELEASE not in sys.stdin.buffer.read():
    print(sys.argv[1], file=sys.stderr)
