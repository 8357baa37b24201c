"""Programs that put themselves into the background, adopted by this process so that it learns how they end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from camserve.errors import ConfigError
from camserve.operate.guardian import Guardian

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
CHILDREN_SECONDS = 5  # for what a daemon leaves behind to end after SIGTERM
POLL_SECONDS = 0.1


class Daemon:
    """A background process and all that it started, which is one process group."""

    def __init__(self, pid: int) -> None:
        """Watch an orphan of this process. ConfigError: there is no such process."""
        self.pid = pid
        self._code: int | None = None
        self._is_stopped = False
        try:
            os.getpgid(pid)
        except ProcessLookupError:
            raise ConfigError(f"process {pid} ended as soon as it was started") from None
        self._guardian = Guardian(pid)

    def poll(self) -> int | None:
        """Return how the process ended: its exit status, or minus the signal that ended it; None: it runs."""
        if self._code is None:
            # Only looked at: a signal handler may ask too, and its number is no other process's until stop().
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                self._code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return self._code

    def signal(self, number: int) -> None:
        """Send a signal to the process itself, which ends its children as it likes."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def leave(self) -> None:
        """Let the process go on when this one has ended; it ends with it otherwise, however that comes."""
        self._guardian.close()

    def stop(self, seconds: float) -> None:
        """End the process and all that it started, by SIGKILL what has not ended after ``seconds``."""
        if self._is_stopped:
            return
        self.signal(signal.SIGTERM)
        _wait_until(lambda: self.poll() is not None, seconds)
        self.signal(signal.SIGKILL)
        _wait_until(lambda: self.poll() is not None, seconds)
        group = os.getpgid(self.pid)  # known only now: nginx of Debian is named before it leaves its parent's group
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            _wait_until(lambda: _is_group_empty(group), CHILDREN_SECONDS)
        self._guardian.close()
        self._is_stopped = True  # another process may get the group's number now


def launch(command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str] | None = None) -> int:
    """Run a command that leaves a daemon behind; return its exit status. ``log`` gets what both print."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise ConfigError("this system cannot adopt background processes: camserve serve needs Linux 3.4 or later")
    with log.open("wb") as output:
        return subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True, check=False
        ).returncode


def describe_end(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def exit_status(code: int) -> int:
    """Return the exit status that a shell reports for a process that ended so."""
    return code if code >= 0 else 128 - code


def last_lines(log: Path, most: int = 5) -> str:
    """Return the last lines of a log as one line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return " | ".join(lines[-most:])


def _is_group_empty(group: int) -> bool:
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
