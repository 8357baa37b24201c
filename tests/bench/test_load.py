"""The load generator, against a web server of the test's own, and the answers that it reads."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from camserve.bench.load import (
    Load,
    LoadReply,
    RequestAddress,
    draw_arrivals,
    run_closed_loop,
    run_fixed_rate,
    send_once,
)
from camserve.bench.workloads import read_best_class
from camserve.errors import ConfigError


@pytest.fixture
def server():
    """A web server that answers as many bytes as it receives, and refuses the body "bad"."""
    received = SimpleNamespace(bodies=[], headers=[], connections=set())

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.bodies.append(body)
            received.headers.append(dict(self.headers))
            received.connections.add(self.client_address)
            status = 503 if body == b"bad" else 200
            if body == b"deadly":
                self.close_connection = True
                return
            answer = b"x" * len(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            self.close_connection = status != 200

        def log_message(self, *_):
            """Say nothing."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    received.client = RequestAddress(
        f"http://127.0.0.1:{running.server_port}/predictions/m", {"X-Camserve-Explain": "false"}
    )
    yield received
    running.shutdown()
    running.server_close()


def test_a_closed_loop_keeps_its_connections_and_sends_every_photo(server):
    load = run_closed_loop(server.client, [b"a", b"bb", b"ccc"], connections=2, seconds=0.2)
    assert len(load.latencies) == len(server.bodies) >= 2
    assert len(server.connections) == 2
    assert load.failed == 0
    assert set(server.bodies) <= {b"a", b"bb", b"ccc"}
    assert server.headers[0]["X-Camserve-Explain"] == "false"
    assert load.throughput == len(load.latencies) / load.seconds
    assert load.seconds >= 0.2


def test_a_connection_that_the_server_closes_is_a_failure_and_ends_nothing(server):
    load = run_closed_loop(server.client, [b"a", b"deadly"], connections=2, seconds=0.2)
    assert load.failed > 0
    assert load.latencies


def test_a_fixed_rate_sends_at_every_instant(server):
    load = run_fixed_rate(server.client, [b"a", b"bad"], rate=80.0, seconds=0.25)
    count = len(draw_arrivals(80.0, 0.25))
    assert len(server.bodies) == count
    assert (len(load.latencies), load.failed) == ((count + 1) // 2, count // 2)
    assert load.size == 1


def test_arrivals_are_always_the_same_and_as_many_as_asked():
    instants = draw_arrivals(50.0, 100.0)
    assert instants == draw_arrivals(50.0, 100.0)
    assert instants == sorted(instants)
    assert instants[-1] < 100.0
    assert len(instants) == pytest.approx(5000, rel=0.05)  # more than three standard deviations


def test_a_latency_is_given_in_milliseconds():
    load = Load((0.1, 0.2, 0.3), 1.5, 0, 10.0)
    assert load.percentile(50) == pytest.approx(200)
    assert load.throughput == 2
    assert math.isnan(Load((), 1.0, 3, 0.0).percentile(50))


def test_one_request_gets_its_answer(server):
    assert send_once(server.client, b"1234") == LoadReply(200, b"xxxx")
    assert send_once(server.client, b"bad") == LoadReply(503, b"xxx")


def test_the_best_class_is_read_from_the_answer_of_each_handler():
    for body in (
        {"predictions": [{"index": 7}, {"index": 1}], "explanations": []},
        {"1": 0.2, "7": 0.5, "3": 0.1},
        {"classes": {"7": 0.9, "2": 0.1}, "map": "..."},
    ):
        assert read_best_class(LoadReply(200, json.dumps(body).encode())) == 7, body


def test_a_refusal_has_no_best_class():
    with pytest.raises(ConfigError, match="answers 503: busy"):
        read_best_class(LoadReply(503, b"busy"))
