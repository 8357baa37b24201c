"""Ray for as long as a block runs."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from camserve.errors import ConfigError
from camserve.operate.ray_here import any_ray, find_silence, own_ray

SAYS = "from camserve.operate.guardian import LastWord; word = LastWord('it is lost'); {then}"


KILLED = """
import os, socket, sys, types
from camserve.operate.ray_here import any_ray
sys.modules["ray"] = types.SimpleNamespace(init=lambda **options: None, shutdown=lambda: None)
with socket.create_server(("127.0.0.1", 0)) as listener:
    os.environ["RAY_ADDRESS"] = "127.0.0.1:%d" % listener.getsockname()[1]
    with any_ray(1):
        os.kill(os.getpid(), 9)
"""


class Refusing:
    """Stands where ray is imported, and is at no address."""

    def init(self, **options):
        raise ConnectionError("nothing there")

    def shutdown(self):
        pass


def test_the_environment_and_the_signals_are_afterwards_as_before(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", Refusing())
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ConfigError, match=r"^Ray does not start here: nothing there$"), own_ray(1):
        pass
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_ray_of_ones_own_that_takes_too_long_is_not_taken_for_a_cluster(monkeypatch):
    def time_out(**options):
        raise ConnectionError("TimedOut: the GCS of this machine\nand more")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=time_out, shutdown=lambda: None))
    with pytest.raises(ConfigError, match=r"^Ray does not start here: TimedOut: the GCS of this machine"), own_ray(1):
        pass


def test_the_signals_are_as_before_where_ray_does_not_end_well(monkeypatch):
    def fail():
        raise RuntimeError("the raylet is gone")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **options: None, shutdown=fail))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(RuntimeError, match="raylet"), own_ray(1):
            pass
        after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers):
            signal.signal(number, handler)
    assert after == handlers


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "nothing answers at 127.0.0.1:9: the connection is refused"),
        ("ray://127.0.0.1:9", "nothing answers at ray://127.0.0.1:9: the connection is refused"),
        ("127.0.0.1:99999", "nothing answers at 127.0.0.1:99999"),
        ("no-such-machine.invalid:6379", "no machine is known by this name"),
        ("head..svc:6379", "nothing answers at head..svc:6379: this is no name of a machine"),
        (f"{'head' * 16}.svc:6379", "this is no name of a machine"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_before_ray_tries(address, said, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as refused, any_ray(1):
        pass
    assert said in str(refused.value)
    assert str(refused.value).endswith("; without RAY_ADDRESS this machine does the work")


def test_what_ray_itself_looks_for_is_left_to_it():
    assert [find_silence(address) for address in ("auto", "10.0.0.1", "")] == [None] * 3


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("import os; os._exit(1)", "it is lost\n"),
        ("import os; os.kill(os.getpid(), 9)", "it is lost\n"),
        ("word.close()", ""),
    ],
)
def test_a_process_that_is_ended_without_a_word_has_one(then, said):
    done = subprocess.run(
        [sys.executable, "-c", SAYS.format(then=then)], stderr=subprocess.PIPE, text=True, check=False, timeout=30
    )
    assert done.stderr == said


def test_what_ended_a_process_on_a_cluster_is_left_open():
    """The kernel ends one too, where memory runs out."""
    done = subprocess.run([sys.executable, "-c", KILLED], stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    assert done.stderr.startswith(
        "camserve: this process was ended without a word; Ray does so where its cluster is lost: look at 127.0.0.1:"
    )
    assert done.stderr.count("\n") == 1
