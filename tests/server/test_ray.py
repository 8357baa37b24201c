"""camserve serve --engine ray: replicas under Ray Serve, and the answers of one process."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import faulty_network
import grpc
import psutil
import pytest
import requests
from engine_requests import (
    HOSTILE_FILES,
    PNG,
    PREDICT,
    ask,
    ask_beside_hostile_files,
    bodies_of,
    code_of,
    cut_off,
    started,
    without_ids,
)
from supervised import supervised
from test_unsafe import copy_changed, renumber

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.operate.endpoint import Endpoint
from camserve.settings import RuntimeSpec
from conftest import RECIPE

pytest.importorskip("ray", reason="pip install 'camserve[ray]'")
pytestmark = pytest.mark.server

NAMES = (
    *("body", "form", "headers", "path", "explanations", "picture", "slow methods", "gzip", "urlencoded", "v1 explain"),
    *("v2", "unknown class", "no picture", "broken json", "bomb"),
)
BATCH = 4
REPLICA = "ray::ServeRepl"  # as much of it as the system keeps
LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1")


@pytest.fixture(scope="module")
def archive(build_once):
    """The shipped model with two workers of one thread: other sums of threads are other last digits."""
    serving = {"minWorkers": 2, "maxWorkers": 2, "batchSize": BATCH, "maxBatchDelay": 20}
    recipe = replace(load_recipe(RECIPE), runtime=RuntimeSpec(threads=1), serving=serving)
    return build_once("two workers", lambda folder: build_archive(recipe, folder, lambda line: None))


@pytest.fixture(scope="module")
def running(archive, tmp_path_factory, next_ports):
    with started("ray", archive, tmp_path_factory.mktemp("ray"), next_ports()) as (process, side):
        yield process, side


@pytest.fixture(scope="module")
def side(running):
    return running[1]


@pytest.fixture(scope="module")
def other(archive, tmp_path_factory, next_ports):
    with started("asgi", archive, tmp_path_factory.mktemp("asgi"), next_ports()) as (_, side):
        yield side


@pytest.fixture(scope="module")
def bodies(coffee):
    return bodies_of(coffee)


def replicas(process):
    alive = [child.as_dict(["pid", "name", "status"]) for child in process.below if child.is_running()]
    return {one["pid"] for one in alive if one["name"].startswith(REPLICA) and one["status"] != psutil.STATUS_ZOMBIE}


def folder_of(processes):
    """Return Ray's temporary folder, which its processes name."""
    words = [word for process in processes for word in process.cmdline()]
    (folder,) = {found for word in words for found in re.findall(r"/tmp/camserve-ray-\w+", word)}
    return Path(folder)


def wait_until(condition):
    for _ in range(120):
        if condition():
            return
        time.sleep(0.5)
    raise AssertionError("not within a minute")


def totals(side, name):
    """Return the values of one metric, by its labels."""
    page = ask(side, "GET", "/metrics").text
    return {labels: float(value) for labels, value in re.findall(rf"^{name}(\{{.*\}}) (\S+)$", page, re.MULTILINE)}


def test_every_series_is_there_before_the_first_request(running, other):
    def names(page):
        return set(re.findall(r"^(cam_\w+\{.*\}) ", page, re.MULTILINE))

    here = ask(running[1], "GET", "/metrics").text
    assert names(here) >= names(ask(other, "GET", "/metrics").text) > set()
    assert sum(totals(running[1], "cam_requests_total").values()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_that_of_one_process_byte_for_byte(side, other, bodies, name):
    method, path, rest = bodies[name]
    here, there = ask(side, method, path, **rest), ask(other, method, path, **rest)
    assert without_ids(here) == without_ids(there)
    assert here.headers.get("X-Camserve-Warnings") == there.headers.get("X-Camserve-Warnings")


def test_what_reaches_no_model_is_refused(side, coffee):
    assert code_of(ask(Endpoint(side.url, "x"), "POST", PREDICT, data=coffee)) == (401, "no_token")
    assert code_of(ask(side, "POST", f"{PREDICT}/2.0", data=coffee)) == (404, "no_such_model")
    assert code_of(ask(side, "POST", PREDICT, data=bytes(7_000_000))) == (413, "too_many_bytes")
    twice = [("data", ("a.png", coffee)), ("data", ("b.png", coffee))]
    assert code_of(ask(side, "POST", PREDICT, files=twice)) == (400, "bad_request")
    for path in ("/ping", "/v2/health/ready", "/v2/models/imagenet/ready"):
        assert requests.get(f"{side.url}{path}", timeout=10).status_code == 200


def test_both_replicas_answer_each_request_by_itself_and_all_are_counted(running, bodies):
    """Hostile files among good pictures, in shared batches."""
    process, side = running
    before = totals(side, "cam_requests_total")
    busy = {pid: psutil.Process(pid).cpu_times().user for pid in replicas(process)}
    good = ask_beside_hostile_files(side, bodies["form"], 24)
    assert {one.json()["predictions"][0]["label"] for one in good} == {"espresso"}
    after = totals(side, "cam_requests_total")
    assert sum(after.values()) - sum(before.values()) == len(HOSTILE_FILES) + len(good)
    assert [pid for pid, seconds in busy.items() if psutil.Process(pid).cpu_times().user - seconds < 0.1] == []


def test_no_port_lets_a_stranger_in(running):
    """Ray's own listen on loopback; that of a replica, which listens everywhere, wants Ray's token."""
    process, _ = running
    listening = {
        connection.laddr
        for child in process.below
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    strange = [address for address in listening if address.ip not in LOOPBACK]
    assert len(strange) == 2 == len(replicas(process))
    for address in strange:
        with grpc.insecure_channel(f"127.0.0.1:{address.port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as failed:
                call(b"", timeout=10)
        assert failed.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_killed_replica_loses_its_requests_in_flight_alone_and_comes_back(running, coffee):
    process, side = running
    before, clients = replicas(process), 8
    is_killed, is_back = threading.Event(), threading.Event()

    def ask_on():
        answers = []
        while not is_back.is_set():
            answers.append(ask(side, "POST", PREDICT, data=coffee, headers=PNG))
        return answers

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask_on) for _ in range(clients)]
        try:
            time.sleep(1)
            psutil.Process(min(before)).kill()
            is_killed.set()
            wait_until(lambda: len(replicas(process) - {min(before)}) == 2)
            assert requests.get(f"{side.url}/ping", timeout=10).ok
        finally:
            is_back.set()
    answers = [one.result() for one in asking]
    lost = [[answer for answer in client if answer.status_code != 200] for client in answers]
    assert max(map(len, lost)) == 1
    assert sum(map(len, lost)) <= 2 * BATCH
    assert {code_of(answer) for client in lost for answer in client} == {(500, "internal_error")}
    good = {without_ids(answer)[0] for client in answers for answer in client if answer.ok}
    assert good == {200}
    assert before - {min(before)} < replicas(process)


def test_a_changed_archive_takes_over_without_a_lost_request(archive, tmp_path, next_ports, coffee):
    """At SIGHUP, under load; a broken one changes nothing."""
    served, changed, is_over = tmp_path / "imagenet.mar", tmp_path / "next.mar", threading.Event()
    shutil.copy(archive, served)

    def ask_on(side):
        answers = []
        while not is_over.is_set():
            answers.append(ask(side, "POST", PREDICT, data=coffee, headers=PNG))
        return answers

    with started("ray", served, tmp_path / "state", next_ports()) as (process, side), ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask_on, side) for _ in range(6)]
        try:
            copy_changed(archive, changed, partial(renumber, version="2.0"))
            changed.replace(served)
            process.signal(signal.SIGHUP)
            process.until("imagenet.mar: version 2.0 answers now")
            wait_until(lambda: len(replicas(process)) == 2)
            assert code_of(ask(side, "POST", f"{PREDICT}/1.0", data=coffee)) == (404, "no_such_model")
            changed.write_bytes(b"no archive")
            changed.replace(served)
            process.signal(signal.SIGHUP)
            process.until("the one before goes on")
        finally:
            is_over.set()
        answers = [answer for client in asking for answer in client.result()]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["model"]["version"] for answer in answers} == {"1.0", "2.0"}
        assert ask(side, "POST", f"{PREDICT}/2.0", data=coffee).ok
        assert len([line for line in process.lines if "does not" in line or "not an archive" in line]) == 1


def test_more_workers_begin_under_load_where_an_archive_allows_them(archive, tmp_path, next_ports, coffee):
    elastic, is_over = tmp_path / "imagenet.mar", threading.Event()
    copy_changed(archive, elastic, lambda _, data: data.replace(b"minWorkers: 2", b"minWorkers: 1"))

    def ask_on(side):
        while not is_over.is_set():
            answer = ask(side, "POST", PREDICT, data=coffee, headers=PNG)
            assert answer.ok, answer.text

    with started("ray", elastic, tmp_path / "state", next_ports()) as (process, side), ThreadPoolExecutor(16) as pool:
        assert len(replicas(process)) == 1
        asking = [pool.submit(ask_on, side) for _ in range(16)]
        try:
            wait_until(lambda: len(replicas(process)) == 2)
        finally:
            is_over.set()
        assert [one.exception() for one in asking] == [None] * 16


def test_a_signal_lets_what_is_under_way_be_answered_and_leaves_nothing_behind(archive, tmp_path, next_ports, coffee):
    slow = {"files": {"data": coffee}, "data": {"method": "guided_gradcam,ablationcam"}}
    with started("ray", archive, tmp_path, next_ports()) as (process, side), ThreadPoolExecutor(4) as pool:
        below = process.below
        folder = folder_of(below)
        waiting = [pool.submit(ask, side, "POST", PREDICT, **slow) for _ in range(4)]
        time.sleep(0.3)
        process.signal(signal.SIGTERM)
        assert process.end() == 0
        assert [one.result().status_code for one in waiting] == [200] * 4
    assert psutil.wait_procs(below, timeout=5)[1] == []
    assert not folder.exists()


def test_a_signal_while_an_archive_loads_leaves_nothing_behind(archive, tmp_path, next_ports):
    with supervised(next_ports(), tmp_path, archive, "--engine", "ray") as process:
        process.until("loading ")
        below = process.below
        folder = folder_of(below)
        process.signal(signal.SIGTERM)
        assert process.end() == 128 + signal.SIGTERM
    assert psutil.wait_procs(below, timeout=5)[1] == []
    assert not folder.exists()
    assert process.lines == ["starting Ray", "loading imagenet.mar"]


def test_a_second_ctrl_c_ends_it_in_one_line_and_leaves_nothing_behind(archive, tmp_path, next_ports, coffee):
    with started("ray", archive, tmp_path, next_ports()) as (process, side):
        below = process.below
        folder = folder_of(below)
        assert cut_off(process, side, coffee) == 128 + signal.SIGINT
    assert psutil.wait_procs(below, timeout=5)[1] == []
    assert not folder.exists()
    assert process.lines[-1] == "camserve: stopped by Ctrl-C"
    assert not [line for line in process.lines if "Traceback" in line or "CancelledError" in line]


def test_ctrl_c_twice_while_an_archive_loads_leaves_nothing_behind(archive, tmp_path, next_ports):
    """And a cluster's address, which is for explain, is named and passed over."""
    with supervised(next_ports(), tmp_path, archive, "--engine", "ray", RAY_ADDRESS="127.0.0.1:9") as process:
        process.until("loading ")
        below = process.below
        folder = folder_of(below)
        for _ in range(2):
            process.signal(signal.SIGINT)
            time.sleep(0.3)
        assert process.end() == 128 + signal.SIGINT
    assert psutil.wait_procs(below, timeout=5)[1] == []
    assert not folder.exists()
    passed_over = "RAY_ADDRESS is passed over: these workers run on this machine alone (docs/engines.md: A cluster)"
    assert process.lines == [passed_over, "starting Ray", "loading imagenet.mar", "camserve: stopped by Ctrl-C"]


PLACED = """
import sys, threading
from pathlib import Path
from camserve.operate.ray_here import own_ray
with own_ray(2, num_gpus=1):
    import ray
    from ray import serve
    from camserve.asgi.metrics import Metrics
    from camserve.asgi.on_ray.fleet import Fleet
    serve.start(proxy_location="Disabled", logging_config={"log_level": "CRITICAL"})
    Fleet([Path(path) for path in sys.argv[1:]], Metrics(), lambda line: None)
    print("free GPUs", ray.available_resources()["GPU"])
"""


def test_workers_share_a_gpu_but_for_an_archive_that_is_of_the_cpu(archive, tmp_path):
    """Ray is told of a GPU that is not there: replicas are placed, and compute on cores."""
    other = tmp_path / "other.mar"

    def change(name, data):
        return renumber(name, data, "2.0").replace(b"minWorkers: 2", b"deviceType: cpu\nminWorkers: 2")

    copy_changed(archive, other, change)
    command = [sys.executable, "-c", PLACED, archive, other]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    # Two of one archive, beside what a change begins: a quarter each, and none for the other archive.
    assert [line for line in done.stdout.splitlines() if line.startswith("free")] == ["free GPUs 0.5"], done.stderr


def test_more_workers_than_cores_share_them(archive, tmp_path, next_ports, coffee):
    crowded = tmp_path / "imagenet.mar"
    more = b"minWorkers: 3", b"maxWorkers: 3"
    copy_changed(
        archive,
        crowded,
        lambda _, data: data.replace(b"minWorkers: 2", more[0]).replace(b"maxWorkers: 2", more[1]),
    )
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # for the command, which inherits it
    try:
        with started("ray", crowded, tmp_path / "state", next_ports()) as (process, side):
            assert ask(side, "POST", PREDICT, data=coffee, headers=PNG).ok
            assert len(replicas(process)) == 3
    finally:
        os.sched_setaffinity(0, before)


def test_a_replica_whose_batch_takes_too_long_is_replaced(faulty_archive, tmp_path, next_ports, encoded):
    impatient = tmp_path / "faulty.mar"
    copy_changed(faulty_archive, impatient, lambda _, data: data.replace(b"responseTimeout: 6", b"responseTimeout: 1"))
    with started("ray", impatient, tmp_path / "state", next_ports()) as (process, side):
        (before,) = replicas(process)
        sleeps = encoded(64, 64, color=(faulty_network.SLEEPS, 0, 0))
        assert ask(side, "POST", "/predictions/faulty", data=sleeps).status_code in (500, 504)
        wait_until(lambda: len(replicas(process) - {before}) == 1)
        wait_until(lambda: requests.get(f"{side.url}/ping", timeout=10).ok)
        fine = encoded(64, 64, color=(faulty_network.FINE, 0, 0))
        assert ask(side, "POST", "/predictions/faulty", data=fine).ok


def test_the_code_is_the_archives_own(archive, tmp_path, next_ports):
    """One that lacks what the engine calls does not load, though the installed package has it."""
    old = tmp_path / "imagenet.mar"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(old, "w") as part:
        for name in whole.namelist():
            if name != "camserve/serving/engines/answering.py":
                part.writestr(name, whole.read(name))
    with supervised(next_ports(), tmp_path / "state", old, "--engine", "ray") as process:
        assert process.end() == 1
    assert process.lines[-1] == f"camserve: {old} does not load: its code is older than this engine: build it again"
    assert not [line for line in process.lines if "Traceback" in line]
