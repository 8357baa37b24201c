"""A background process is adopted: how it ended is known, and nothing of it is left."""

import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from camserve.errors import ConfigError
from camserve.operate.daemon import Daemon, describe_end, exit_status, launch

CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(600)
"""
DAEMON = f"""
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
exec(sys.argv[1])
print(os.getpid(), child.pid, flush=True)
exec(sys.argv[2])
"""
# Ends as soon as the daemon has said its number and its child's.
LAUNCHER = f"""
import subprocess, sys
daemon = subprocess.Popen([sys.executable, "-c", {DAEMON!r}, *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
print(daemon.stdout.readline())
"""
WAIT = "time.sleep(600)"


@pytest.fixture
def adopt(tmp_path, monkeypatch):
    """Start a daemon whose child ignores SIGTERM, with something that it does before it is up and after."""
    monkeypatch.setattr("camserve.operate.daemon.CHILDREN_SECONDS", 0.5)
    started = []

    def adopt(after, before=""):
        assert launch([sys.executable, "-c", LAUNCHER, before, after], tmp_path / "log", tmp_path) == 0
        pid, child = map(int, (tmp_path / "log").read_text().split())
        started.append(Daemon(pid))
        return started[-1], psutil.Process(child)

    yield adopt
    for daemon in started:
        daemon.stop(10)


def ended(daemon):
    deadline = time.monotonic() + 30
    while (code := daemon.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return code


def test_the_end_of_an_orphan_is_known_and_its_children_end_with_it(adopt):
    # Once it is an orphan: until then its parent could ask how it ended.
    daemon, child = adopt("while os.getppid() == parent: time.sleep(0.01)\nsys.exit(7)", "parent = os.getppid()")
    assert ended(daemon) == 7
    assert child.is_running()
    daemon.stop(10)
    assert not child.is_running()
    assert not psutil.pid_exists(daemon.pid)
    assert daemon.poll() == 7


def test_a_signal_is_told_from_a_status(adopt):
    daemon, _ = adopt(WAIT)
    assert daemon.poll() is None
    daemon.signal(signal.SIGKILL)
    assert ended(daemon) == -signal.SIGKILL
    daemon.signal(signal.SIGTERM)  # to nobody
    assert (describe_end(-9), describe_end(3), describe_end(-63)) == (
        "killed by SIGKILL",
        "status 3",
        "killed by signal 63",
    )
    assert (exit_status(-9), exit_status(3)) == (137, 3)


def test_what_ignores_sigterm_is_killed(adopt):
    daemon, child = adopt(WAIT, before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    daemon.stop(0.3)
    assert ended(daemon) == -signal.SIGKILL
    assert not child.is_running()


def test_a_process_that_is_gone_is_named():
    with pytest.raises(ConfigError, match="process 4194305 ended as soon as it was started"):
        Daemon(4194305)  # above the largest number that Linux gives


COMMAND = """
import sys
from pathlib import Path
from camserve.operate.daemon import Daemon, launch
log = Path(sys.argv[1])
launch([sys.executable, "-c", sys.argv[2], "", "time.sleep(600)"], log, log.parent)
daemon = Daemon(int(log.read_text().split()[0]))
print(log.read_text(), flush=True)
sys.stdin.read()
daemon.leave()
"""


@pytest.fixture
def command(tmp_path):
    """A command that has started a daemon; its standard input keeps it, and the daemon's number and its child's."""
    words = [sys.executable, "-c", COMMAND, str(tmp_path / "log"), LAUNCHER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        below = [psutil.Process(int(number)) for number in process.stdout.readline().split()]
        yield process, below
        process.kill()
        for left in below:
            with suppress(psutil.NoSuchProcess):
                left.kill()


def test_a_daemon_ends_with_the_command_that_was_killed(command):
    process, below = command
    process.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(below, timeout=30)[1] == []


def test_a_daemon_that_is_left_goes_on(command):
    process, below = command
    process.stdin.close()
    assert process.wait(30) == 0
    assert psutil.wait_procs(below, timeout=0.3)[0] == []
