"""Models that come, go and change their version under traffic, through the front."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import faulty_network as faults
import pytest
import requests
from faulty_client import picture
from nginx_needed import needs_nginx, started
from PIL import Image
from test_unsafe import copy_changed, renumber

import hostile
from camserve.operate.front import SERVER_PROPERTIES, Front
from camserve.operate.server import Server

pytestmark = [pytest.mark.server, needs_nginx]

FINE, SLOW = picture(faults.FINE), picture(faults.SLOW)
HOSTILE = [make() for make in (*hostile.SIZE_BOMBS.values(), *hostile.TIME_BOMBS.values())]
LARGE = hostile.encode(Image.new("RGBA", (5_000, 5_000)), "PNG")
HOSTILE += [
    *hostile.mutated(50, 7),
    hostile.heavy_scans(5_000, 5_000),
    LARGE,
]
CLIENTS = 4
ANSWER_SECONDS = 17 + 5  # what the front waits for TorchServe, and some more


@pytest.fixture(scope="module")
def served(faulty_archive, open_folder, next_ports):
    copy_changed(faulty_archive, faulty_archive.with_name("second.mar"), lambda name, data: renumber(name, data, "2.0"))
    properties = {**SERVER_PROPERTIES, "enable_model_api": "true"}
    with Server([faulty_archive], open_folder(), next_ports(), **properties) as running:
        yield running


@pytest.fixture(scope="module")
def front(served, next_ports):
    with started(Front(served, next_ports())) as running:
        yield running


@pytest.fixture
def manage(served):
    def manage(method, path, **params):
        side = served.management
        answer = requests.request(method, f"{side.url}{path}", params=params, headers=side.headers, timeout=60)
        answer.raise_for_status()

    return manage


def ask(front, body=FINE):
    """Return the status of one request and the version that answered."""
    side = front.inference
    url = f"{side.url}/predictions/faulty"
    answer = requests.post(url, headers=side.headers, data=body, timeout=ANSWER_SECONDS)
    answer.close()
    version = answer.json()["model"]["version"] if answer.ok else ""
    return answer.status_code, version


@pytest.fixture
def traffic(front):
    """Ask on and on while a block runs, with good pictures or with given bodies."""

    class Traffic:
        def __init__(self, *bodies):
            self._bodies = bodies or (FINE,)

        def __enter__(self):
            self.seen = [[] for _ in range(CLIENTS)]
            self._over = Event()
            self._pool = ThreadPoolExecutor(CLIENTS)
            self._running = [self._pool.submit(self._ask, seen) for seen in self.seen]
            self.wait(3)
            return self

        def _ask(self, seen):
            bodies = itertools.cycle(self._bodies)
            while not self._over.is_set():
                seen.append(ask(front, next(bodies)))

        def wait(self, more):
            """Wait until each client has so many more answers; from two on, what was under way is answered."""
            enough, deadline = [(seen, len(seen) + more) for seen in self.seen], time.monotonic() + 60
            while any(len(seen) < least for seen, least in enough):
                assert time.monotonic() < deadline
                time.sleep(0.05)

        def __exit__(self, *_):
            self._over.set()
            for running in self._running:
                running.result()
            self._pool.shutdown()

        @property
        def statuses(self):
            return {status for seen in self.seen for status, _ in seen}

        @property
        def versions(self):
            return {version for seen in self.seen for _, version in seen}

    return Traffic


beside_others = pytest.mark.parametrize("beside", [[FINE], HOSTILE], ids=["good", "hostile"])


@beside_others
def test_a_version_is_changed_and_no_request_is_lost(traffic, manage, beside):
    """Register, make it the default, wait for what the old one holds, remove."""
    with traffic(*beside) as others, traffic() as running:
        for version, old, archive in (("2.0", "1.0", "second.mar"), ("1.0", "2.0", "faulty.mar")):
            manage("POST", "/models", url=archive, initial_workers=1, synchronous="true")
            manage("PUT", f"/models/faulty/{version}/set-default")
            running.wait(2)
            others.wait(2)
            manage("DELETE", f"/models/faulty/{old}")
            running.wait(3)
    assert running.statuses == {200}
    assert others.statuses <= {200, 400, 413, 415, 503}
    assert running.versions == {"1.0", "2.0"}


@beside_others
def test_a_drained_model_is_unregistered_and_no_request_is_lost(front, traffic, manage, beside):
    draining = front.folder / "draining" / "faulty"
    with ThreadPoolExecutor(CLIENTS) as pool, traffic(*beside) as others, traffic() as running:
        waiting = [pool.submit(ask, front, SLOW) for _ in range(CLIENTS)]
        time.sleep(1)
        draining.touch()
        assert {call.result()[0] for call in waiting} <= {200, 503}
        running.wait(2)
        others.wait(2)
        manage("DELETE", "/models/faulty/1.0")
        manage("POST", "/models", url="faulty.mar", initial_workers=1, synchronous="true")
        draining.unlink()
        running.wait(3)
    assert running.statuses == {200, 503}
    assert others.statuses <= {200, 400, 413, 415, 503}
    assert {seen[-1][0] for seen in running.seen} == {200}


def test_a_model_that_is_unregistered_under_traffic_leaves_nobody_without_an_answer(front, manage):
    """TorchServe itself never answers most of these: the front does, after twice the response timeout."""
    with ThreadPoolExecutor(40) as pool:
        waiting = [pool.submit(ask, front, SLOW) for _ in range(40)]
        time.sleep(1)
        manage("DELETE", "/models/faulty/1.0")
        statuses = [call.result()[0] for call in waiting]
    assert set(statuses) <= {200, 404, 500, 503, 504}
    assert 504 in statuses


def test_a_front_without_its_server_says_so(front, served):
    served.stop()
    side = front.inference
    answer = requests.post(f"{side.url}/predictions/faulty", headers=side.headers, data=FINE, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "server_down")
