"""A process of its own that ends a daemon when the command that started it dies without a word, as by SIGKILL.

PR_SET_PDEATHSIG cannot do it: the kernel sends that signal when the direct parent ends, and the parents of Java and of
nginx are launchers that end at once. This file runs by itself, with nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

RELEASE = b"."
SECONDS = 30  # after SIGTERM, before SIGKILL


class Guardian:
    """Ends the process ``pid`` and its group once this process is gone."""

    def __init__(self, pid: int) -> None:
        """Start to watch: the other end of a pipe closes when this process ends, however that is."""
        command = [sys.executable, "-I", "-S", __file__, str(pid)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def release(self) -> None:
        """Watch no longer, and leave the process alone."""
        with suppress(BrokenPipeError):
            self._process.communicate(RELEASE)


def guard(pid: int) -> None:
    """Wait for the end of standard input, and end the process then unless the last word was a release."""
    if RELEASE in sys.stdin.buffer.read():
        return
    try:
        group = os.getpgid(pid)
        _end(pid)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _end(pid: int) -> None:
    """Send SIGTERM, upon which Java and nginx end their workers, and wait for the end."""
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)


if __name__ == "__main__":
    guard(int(sys.argv[1]))
