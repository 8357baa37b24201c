"""A real nginx before a real TorchServe: what TorchServe's own frontend lets happen does not happen behind it."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO

import faulty_network as faults
import numpy as np
import psutil
import pytest
import requests
from faulty_client import RECOVERY_SECONDS, picture
from nginx_needed import needs_nginx, started
from operating_page import commands, run
from PIL import Image

from camserve.errors import ConfigError
from camserve.operate.doctor.front import check_front
from camserve.operate.front import SERVER_PROPERTIES, Front, FrontLimits, add_client
from camserve.operate.server import Server

pytestmark = [pytest.mark.server, needs_nginx]

PREDICT = "/predictions/faulty"
ORIGIN = "https://a.example"
IDLE_SECONDS, CLIENT_REQUESTS = 2, 24
SLOW_READERS = 6
READ_SECONDS = 17  # twice the response timeout of the archive, and 5
FINE = picture(faults.FINE)


@pytest.fixture(scope="module")
def served(faulty_archive, open_folder, next_ports):
    """Serve two models in one server."""
    other = faulty_archive.with_name("other.mar")
    shutil.copy(faulty_archive, other)
    with Server([faulty_archive, other], open_folder(), next_ports(), **SERVER_PROPERTIES) as running:
        yield running


@pytest.fixture(scope="module")
def front(served, next_ports):
    limits = FrontLimits(IDLE_SECONDS, 2, CLIENT_REQUESTS)
    with started(Front(served, next_ports(), [ORIGIN], limits)) as running:
        yield running


@pytest.fixture
def ask(front):
    """Ask the front, with its token unless headers say otherwise."""

    def ask(path=PREDICT, method="POST", headers=None, data=FINE, **options):
        given = front.inference.headers if headers is None else headers
        return requests.request(method, f"{front.inference.url}{path}", headers=given, data=data, timeout=60, **options)

    return ask


def code_of(answer):
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()["error"]["code"]


def port_of(side):
    return int(side.url.rpartition(":")[2])


def connect(front):
    return socket.create_connection(("127.0.0.1", port_of(front.inference)), 30)


def head_of(front, *lines, path=PREDICT):
    side = front.inference
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {side.token}", *lines, "", ""]
    ).encode()


def read_all(raw):
    received = b""
    while True:
        try:
            more = raw.recv(1 << 20)
        except ConnectionResetError:
            return received
        if not more:
            return received
        received += more


def reaching(served):
    """Return how many connections TorchServe's inference side holds."""
    port = port_of(served.inference)
    connections = psutil.Process(served.pid).net_connections("tcp")
    return sum(found.status == psutil.CONN_ESTABLISHED and found.laddr.port == port for found in connections)


def worker_of(served, model="faulty"):
    (worker,) = served.workers(model)
    return int(worker["pid"])


@pytest.mark.parametrize(
    "path",
    [PREDICT, f"{PREDICT}/1.0", f"{PREDICT}/1.0/target/dog", "/explanations/faulty", "/predictions/other"],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_the_routes_of_pictures_are_open(ask, path, method):
    answer = ask(path, method)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"]


def test_the_kserve_routes_are_open(ask):
    for path in ("/v1/models/faulty:predict", "/v1/models/faulty:explain", "/v2/models/faulty/infer"):
        answer = ask(path, data=json.dumps({"instances": []}), headers=None)
        assert answer.status_code != 404


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/models",
        "/models/faulty",
        "/models/faulty/invoke",
        "/faulty/predict",
        "/invocations",
        "/api-description",
        "/metrics",
        "/token",
        "/predictions",
        "/predictions/",
        "/v2/models/faulty",
        "/refusals/too_large",
    ],
)
def test_nothing_else_is_there(ask, path):
    assert code_of(ask(path)) == (404, "no_such_route")
    assert code_of(ask(path, "GET", data=None)) == (404, "no_such_route")


def test_other_methods_are_refused(ask):
    for method in ("GET", "DELETE", "PATCH"):
        assert code_of(ask(method=method)) == (405, "wrong_method")


def test_a_request_needs_a_token_of_the_front(ask, served):
    refused = ask(headers={})
    assert code_of(refused) == (401, "no_token")
    assert refused.headers["www-authenticate"] == "Bearer"
    for token in ("x" * 32, "../ready/.all", "", ".", served.inference.token, served.management.token):
        assert code_of(ask(headers={"Authorization": f"Bearer {token}"})) == (401, "no_token")
    assert code_of(ask(headers={"Authorization": "Basic Zm9v"})) == (401, "no_token")


def test_tokens_come_and_go_without_a_reload(ask, served):
    *admit, remove = commands("token")
    token = run([*admit, 'echo "$TOKEN"'], FOLDER=served.folder).strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert ask(headers=headers).status_code == 200
    run([remove], FOLDER=served.folder, TOKEN=token)
    assert ask(headers=headers).status_code == 401


def test_an_ended_token_is_deleted(ask, front):
    headers = {"Authorization": f"Bearer {add_client(front.folder, -1)}"}
    front._looked = 0
    front.look()
    assert ask(headers=headers).status_code == 401
    assert ask().status_code == 200


def test_health_needs_no_token(ask, front):
    for path in ("/ping", "/v2/health/live"):
        answer = ask(path, "GET", {}, None)
        assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})
    for path in ("/v2/health/ready", "/v2/models/faulty/ready"):
        answer = ask(path, "GET", {}, None)
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
    assert ask("/v2/models/unknown/ready", "GET", {}, None).status_code == 503


def test_health_reaches_torchserve_once_a_second(ask, front):
    start, before = time.monotonic(), len(asked_for_health(front))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask("/ping", "GET", {}, None).status_code, range(200)))
    assert set(answers) == {200}
    assert len(asked_for_health(front)) - before <= time.monotonic() - start + 2


def asked_for_health(front):
    """Return what the front has logged of health requests that TorchServe saw."""
    lines = [json.loads(line) for line in (front.folder / "access.log").read_text().splitlines()]
    return [line for line in lines if line["path"] == "/ping" and line["upstream"]]


def test_a_query_string_is_refused_rather_than_dropped(ask):
    refused = ask(f"{PREDICT}?target=dog")
    assert code_of(refused) == (400, "query_string")
    assert "x-camserve-target" in refused.json()["error"]["message"]
    answer = ask(headers=None, method="POST", path=f"{PREDICT}/1.0/target/dog")
    assert answer.json()["explanations"][0]["target"]["label"] == "dog"


def test_headers_of_options_arrive_and_those_of_torchserve_do_not(ask, front):
    headers = {**front.inference.headers, "x-camserve-target": "dog", "describe": "True", "explain": "True"}
    answer = ask(headers=headers)
    assert answer.json()["explanations"][0]["target"]["label"] == "dog"


BAD_PATHS = {
    "line feed": "/1.0/target/%0aFORGED",
    "carriage return": "/1.0/target/%0D%0aFORGED",
    "escape": "/1.0/target/%1b[2JFORGED",
    "delete": "/1.0/target/%7FFORGED",
    "next line": "/1.0/target/%C2%85FORGED",
    "line separator": "/1.0/target/%e2%80%a8FORGED",
    "dots": "/../../api-description/FORGED",
    "hidden dots": "/%2e%2e/FORGED",
    "hidden slash": "/x%2f..%2fFORGED",
    "empty part": "//FORGED",
    "bare byte": "/1.0/target/\x85FORGED",
}


def send_path(front, path):
    with connect(front) as raw:
        raw.sendall(f"POST {PREDICT}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode("latin-1"))
        raw.sendall(f"Authorization: Bearer {front.inference.token}\r\nContent-Length: 0\r\n\r\n".encode())
        return read_all(raw)


def logged(folder, word):
    logs = [path.read_text(errors="replace") for path in (folder / "logs").glob("*.log")]
    return [line for log in logs for line in log.splitlines() if word in line]


@pytest.mark.parametrize("name", BAD_PATHS)
def test_a_path_that_would_forge_lines_of_the_log_is_refused(front, served, name):
    received = send_path(front, BAD_PATHS[name])
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b'"bad_path"' in received
    assert logged(served.folder, "FORGED") == []
    own = (front.folder / "access.log").read_text()
    assert "FORGED" not in own
    assert all(json.loads(line) for line in own.splitlines())


def test_torchserve_itself_writes_such_a_line(served):
    """What the test above would find: this line begins with what the client sent."""
    url = f"{served.inference.url}{PREDICT}/1.0/target/%0aPLANTED"
    requests.post(url, headers=served.inference.headers, timeout=60)
    deadline = time.monotonic() + 10
    while not (found := logged(served.folder, "PLANTED")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert any(line.startswith("PLANTED") for line in found)


FRAMINGS = {
    "length and chunks": ["Content-Length: 6", "Transfer-Encoding: chunked"],
    "two lengths": ["Content-Length: 0", "Content-Length: 30"],
    "two equal lengths": ["Content-Length: 5", "Content-Length: 5"],
    "list of lengths": ["Content-Length: 5, 5"],
    "signed length": ["Content-Length: +5"],
    "hexadecimal length": ["Content-Length: 0x5"],
    "chunked twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "list of codings": ["Transfer-Encoding: identity, chunked"],
    "unknown coding": ["Transfer-Encoding: xchunked"],
    "space before the colon": ["Transfer-Encoding : chunked", "Content-Length: 5"],
    "folded header": ["Transfer-Encoding:", " chunked", "Content-Length: 5"],
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_ambiguous_framing_is_refused_and_nothing_is_smuggled(front, name):
    smuggled = b"0\r\n\r\n" + head_of(front, "Content-Length: 0", path="/predictions/other")
    with connect(front) as raw:
        raw.sendall(head_of(front, *FRAMINGS[name]) + smuggled)
        received = read_all(raw)
    assert re.match(rb"HTTP/1\.1 (400|501) ", received), received[:200]
    assert received.count(b"HTTP/1.1 ") == 1


def test_pipelined_requests_are_answered_in_order(front):
    slow = picture(faults.SLOW)
    with connect(front) as raw:
        for number, body in ((3, slow), (1, FINE), (2, FINE)):
            last = ["Connection: close"] if number == 2 else []
            lines = [f"x-camserve-top-k: {number}", f"Content-Length: {len(body)}", *last]
            raw.sendall(head_of(front, *lines) + body)
        received = read_all(raw)
    answers = [
        json.loads(found) for found in re.findall(rb'\r\n\r\n(\{"model".*?\})(?=HTTP/1\.1|$)', received, re.DOTALL)
    ]
    assert [len(answer["predictions"]) for answer in answers] == [3, 1, 2]


def test_preflights_are_answered_for_the_named_pages_alone(ask):
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-camserve-target",
    }
    allowed = ask(method="OPTIONS", headers={"Origin": ORIGIN, **asked}, data=None)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "Authorization" in allowed.headers["access-control-allow-headers"]
    other = ask(method="OPTIONS", headers={"Origin": "https://a.example.evil", **asked}, data=None)
    assert "access-control-allow-origin" not in other.headers


def test_a_page_reads_answers_and_refusals(ask, front):
    for headers in (front.inference.headers, {}):
        answer = ask(headers={"Origin": ORIGIN, **headers})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["vary"] == "Origin"


def test_what_is_too_large_is_refused_in_the_shape_of_errors(ask, front):
    assert code_of(ask(data=b"x" * 6_553_501)) == (413, "too_many_bytes")
    assert code_of(ask(headers={**front.inference.headers, "x-long": "x" * 9_000})) == (431, "long_headers")
    assert code_of(ask(f"{PREDICT}/{'x' * 9_000}")) == (431, "long_headers")
    with connect(front) as raw:
        raw.sendall(b"no request at all\r\n\r\n")
        assert b'"bad_request"' in read_all(raw)


@pytest.fixture
def large():
    """A picture whose drawn answer has megabytes."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def test_slow_readers_hold_neither_torchserve_nor_their_connection(ask, front, served, large):
    whole = ask(headers={**front.inference.headers, "accept": "image/png", "x-camserve-size": "1000"}, data=large)
    assert len(whole.content) > 2_000_000
    worker = worker_of(served)
    lines = ["accept: image/png", "x-camserve-size: 1000", f"Content-Length: {len(large)}"]
    with ExitStack() as stack:
        readers = []
        for _ in range(SLOW_READERS):
            raw = stack.enter_context(socket.socket())
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.settimeout(60)
            raw.connect(("127.0.0.1", port_of(front.inference)))
            raw.sendall(head_of(front, *lines) + large)
            readers.append(raw)
        deadline = time.monotonic() + 60
        while len(cut := cut_answers(front)) < SLOW_READERS and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(cut) == SLOW_READERS
        assert reaching(served) == 0
        assert all(len(read_all(raw)) < len(whole.content) for raw in readers)
    # TorchServe was rid of each answer long before its reader was cut.
    assert all(float(line["seconds"]) - float(line["upstream_seconds"]) > IDLE_SECONDS / 2 for line in cut)
    assert worker_of(served) == worker
    assert ask().status_code == 200


def cut_answers(front):
    """Return what nginx has logged of large answers that were not read to their end."""
    lines = [json.loads(line) for line in (front.folder / "access.log").read_text().splitlines()]
    return [line for line in lines if line["upstream"] == "200" and 100_000 < int(line["answer_bytes"]) < 2_000_000]


def test_half_open_connections_are_cut_and_never_reach_torchserve(ask, front, served):
    most = 5_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, most + 500)), hard))
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(front)) for _ in range(most)]
        for raw in opened[::2]:
            raw.sendall(b"POST /predictions/faulty HTTP/1.1\r\nHost:")
        assert ask().status_code == 200
        assert reaching(served) == 0
        for raw in opened:
            raw.settimeout(30)
            assert b"HTTP/1.1 200" not in read_all(raw)


def test_dawdling_bodies_are_cut_and_cost_their_own_token_alone(ask, front, served):
    neighbour = {"Authorization": f"Bearer {add_client(front.folder, 60)}"}
    with ExitStack() as stack:
        dawdling = [stack.enter_context(connect(front)) for _ in range(CLIENT_REQUESTS)]
        for raw in dawdling:
            raw.sendall(head_of(front, f"Content-Length: {len(FINE)}", "Expect: 100-continue"))
            assert raw.recv(1000).startswith(b"HTTP/1.1 100 ")
            raw.sendall(FINE[:20])
        refused = ask()
        assert code_of(refused) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        assert ask(headers=neighbour).status_code == 200
        assert reaching(served) == 0
        for raw in dawdling:
            read_all(raw)
    assert ask().status_code == 200


def test_a_drained_model_refuses_and_its_neighbour_answers(ask, front):
    mark = front.folder / "draining" / "faulty"
    mark.touch()
    try:
        refused = ask()
        assert code_of(refused) == (503, "draining")
        assert refused.headers["retry-after"] == "1"
        assert ask("/v2/models/faulty/ready", "GET", {}, None).status_code == 503
        assert ask("/predictions/other").status_code == 200
    finally:
        mark.unlink()
    assert ask().status_code == 200


def test_a_flooded_model_costs_its_neighbour_nothing(ask, front):
    neighbour = {"Authorization": f"Bearer {add_client(front.folder, 60)}"}
    slow = picture(faults.SLOW)
    with ThreadPoolExecutor(2 * CLIENT_REQUESTS) as pool:
        flood = [pool.submit(ask, data=slow) for _ in range(2 * CLIENT_REQUESTS)]
        assert [ask("/predictions/other", headers=neighbour).status_code for _ in range(5)] == [200] * 5
        assert {call.result().status_code for call in flood} <= {200, 429}


def scale(served, model, workers):
    side = served.management
    params = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
    requests.put(f"{side.url}/models/{model}", params=params, headers=side.headers, timeout=60).raise_for_status()


def test_a_model_scaled_to_nothing_is_not_ready_and_its_neighbour_is(ask, front, served):
    scale(served, "faulty", 0)
    try:
        front._looked = 0
        front.look()
        assert ask().status_code == 503
        assert ask("/v2/models/faulty/ready", "GET", {}, None).status_code == 503
        assert ask("/v2/health/ready", "GET", {}, None).status_code == 503
        assert ask("/ping", "GET", {}, None).status_code == 200
        assert ask("/predictions/other").status_code == 200
    finally:
        scale(served, "faulty", 1)
    front._looked = 0
    front.look()
    assert ask("/v2/health/ready", "GET", {}, None).status_code == 200


def test_a_stopped_worker_is_replaced_and_costs_the_other_model_nothing(ask, served):
    """TorchServe notices it by the response timeout of the archive: until then requests wait, and are answered."""
    stopped = worker_of(served)
    os.kill(stopped, signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask) for _ in range(4)]
        assert [ask("/predictions/other").status_code for _ in range(5)] == [200] * 5
        statuses = {call.result().status_code for call in waiting}
    assert statuses <= {200, 500, 503, 504}
    deadline = time.monotonic() + RECOVERY_SECONDS
    while (answer := ask()).status_code != 200 and time.monotonic() < deadline:
        assert answer.status_code in (500, 503, 504)
    assert answer.status_code == 200
    assert not psutil.pid_exists(stopped)


def test_the_doctor_finds_nothing_about_the_front(front):
    assert check_front(front.inference.url) == []


def test_what_cannot_be_started_is_said_in_one_line(front, served, next_ports):
    with pytest.raises(ConfigError, match=r"port \d+ is taken: name another one for --proxy"):
        Front(served, port_of(front.inference))
    with pytest.raises(ConfigError, match=r"--cors '\*' is no origin: write https://your\.site"):
        Front(served, next_ports(), ["*"])
