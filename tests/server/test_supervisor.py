"""``camserve serve`` looks after its server: signals, ends, and what either leaves behind."""

import json
import signal
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import psutil
import pytest
import requests
from grpc_stub import Client
from test_unsafe import copy_changed

from camserve.operate.endpoint import Endpoint
from camserve.operate.ports import is_free

pytestmark = pytest.mark.server


def assert_gone(processes):
    left = psutil.wait_procs(processes, timeout=1)[1]
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_server_and_command_and_leaves_logs_alone(supervise, faulty_archive, tmp_path, number):
    with supervise(tmp_path, faulty_archive) as running:
        running.until("/predictions/faulty")
        below = running.below
        running.signal(number)
        assert running.end() == 128 + number
    assert_gone(below)
    assert is_free(running.port)
    assert not (tmp_path / "tmp").exists()
    assert (tmp_path / "logs" / "model_log.log").is_file()


def test_a_killed_java_ends_the_command_which_names_its_fate(supervise, faulty_archive, tmp_path):
    with supervise(tmp_path, faulty_archive) as running:
        running.until("/predictions/faulty")
        below = running.below
        running.java().kill()
        assert running.end() == 128 + signal.SIGKILL
    assert running.lines[-1] == f"camserve: TorchServe has ended (killed by SIGKILL); logs in {tmp_path}"
    assert_gone(below)
    assert not (tmp_path / "tmp").exists()


def test_a_killed_command_leaves_no_server_behind(supervise, faulty_archive, tmp_path):
    with supervise(tmp_path, faulty_archive) as running:
        running.until("/predictions/faulty")
        below = running.below
        running.signal(signal.SIGKILL)
        assert running.end() == -signal.SIGKILL
        assert psutil.wait_procs(below, timeout=40)[1] == []
    assert is_free(running.port)


def test_a_signal_while_the_server_starts_is_obeyed(supervise, faulty_archive, tmp_path):
    with supervise(tmp_path, faulty_archive) as running:
        running.until("starting:")
        running.signal(signal.SIGTERM)
        assert running.end() == 128 + signal.SIGTERM
    assert is_free(running.port)
    assert "Traceback" not in "\n".join(running.lines)


def test_sigquit_shows_javas_threads_and_an_ignored_hangup_stays_ignored(supervise, faulty_archive, tmp_path):
    """``nohup`` starts a command with SIGHUP ignored."""
    with supervise(tmp_path, faulty_archive, ignore=[signal.SIGHUP]) as running:
        running.until("/predictions/faulty")
        running.signal(signal.SIGHUP)
        running.signal(signal.SIGQUIT)
        deadline = time.monotonic() + 60  # a Java that is ended at once may not come to it
        while "Full thread dump" not in (tmp_path / "server.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.signal(signal.SIGTERM)
        assert running.end() == 128 + signal.SIGTERM


def test_one_failed_start_does_not_block_the_next_in_its_folder(supervise, faulty_archive, tmp_path):
    folder = tmp_path / "state"
    broken = tmp_path / "faulty.mar"
    copy_changed(faulty_archive, broken, lambda name, data: data[:200] if name == "weights.safetensors" else data)
    with supervise(folder, broken) as running:
        assert running.end() == 1
    assert running.lines[-1].startswith("camserve: the model does not load: camserve: ")
    with supervise(folder, faulty_archive) as running:
        running.until("/predictions/faulty")
        with supervise(folder, faulty_archive) as second:
            assert second.end() == 1
        assert second.lines[-1].startswith(f"camserve: a server runs in {folder} already (process ")
        assert running.status is None


@pytest.fixture
def short_path():
    """A folder in which a server's sockets still find room for their names."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def test_a_folder_whose_path_is_too_long_is_refused_at_once(supervise, faulty_archive, tmp_path):
    with supervise(tmp_path / ("long" * 20), faulty_archive) as running:
        assert running.end() == 1
    assert "is too long for the sockets in it" in running.lines[-1]


def test_a_temporary_folder_goes_with_the_server_and_stays_with_its_failure(supervise, faulty_archive, short_path):
    with supervise(None, faulty_archive, TMPDIR=str(short_path)) as running:
        running.until("/predictions/faulty")
        running.signal(signal.SIGTERM)
        running.end()
    assert list(short_path.iterdir()) == []
    with supervise(None, faulty_archive, TMPDIR=str(short_path)) as running:
        running.until("/predictions/faulty")
        running.java().kill()
        running.end()
    (folder,) = short_path.iterdir()
    assert running.lines[-1].endswith(f"logs in {folder}")
    assert not (folder / "tmp").exists()


def test_a_worker_that_torchserve_has_lost_sight_of_is_replaced(supervise, faulty_archive, tmp_path, coffee):
    """The client ends its half of the call, and TorchServe's thread for the worker fails on the answer."""
    folder = tmp_path / "state"
    with supervise(folder, faulty_archive) as running:
        running.until("/predictions/faulty")
        token = json.loads((folder / "key_file.json").read_text())["inference"]["key"]
        side = Endpoint(f"http://127.0.0.1:{running.port}", token)
        rpc = Client(SimpleNamespace(inference=side), tmp_path, "faulty")
        with pytest.raises(grpc.RpcError):
            rpc.stream_both_ways("a sequence", data=coffee)
        rpc.close()
        assert "is gone, and TorchServe says READY: it is replaced" in running.until("it is replaced")
        statuses = [ask(side, coffee) for _ in range(20)]
        assert statuses[-1] == 200


def ask(side, photo):
    """Return the status of an answer, or 0 where none came in time."""
    try:
        answer = requests.post(f"{side.url}/predictions/faulty", headers=side.headers, data=photo, timeout=5)
    except requests.RequestException:
        return 0
    time.sleep(0.5)
    return answer.status_code
