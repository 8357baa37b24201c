"""A process of its own that acts when the one that started it dies without a word, as by SIGKILL.

PR_SET_PDEATHSIG cannot end a daemon: the kernel sends that signal when the direct parent ends, and the parents of Java
and of nginx are launchers that end at once. This file runs by itself, with nothing but the standard library.
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
END, SAY = "end", "say"  # what is done then


class _Watch:
    """Acts once this process is gone."""

    def __init__(self, act: str, what: str) -> None:
        """Start to watch: the other end of a pipe closes when this process ends, however that is."""
        command = [sys.executable, "-I", "-S", __file__, act, what]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def close(self) -> None:
        """Watch no longer, and do nothing."""
        with suppress(BrokenPipeError):
            self._process.communicate(RELEASE)


class Guardian(_Watch):
    """Ends the process ``pid`` and its group once this process is gone."""

    def __init__(self, pid: int) -> None:
        """Start to watch."""
        super().__init__(END, str(pid))


class LastWord(_Watch):
    """Says a line on standard error once this process is gone."""

    def __init__(self, line: str) -> None:
        """Start to watch."""
        super().__init__(SAY, line)


def _end_group(pid: int) -> None:
    """End a process and its group."""
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


def _act(act: str, what: str) -> None:
    """Wait for the end of standard input, and act then unless the last byte was a release."""
    if RELEASE in sys.stdin.buffer.read():
        return
    if act == SAY:
        print(what, file=sys.stderr)
    else:
        _end_group(int(what))


if __name__ == "__main__":
    _act(*sys.argv[1:])
