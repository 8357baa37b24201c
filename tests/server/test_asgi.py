"""camserve serve --engine asgi: one process without TorchServe, and the same answers."""

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from engine_requests import (
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

from camserve.monitor.series import COUNTERS, GAUGES
from camserve.operate.endpoint import Endpoint
from environments import ROOT

pytestmark = pytest.mark.server

NAMES = (
    *("body", "form", "headers", "path", "explanations", "picture", "drawn", "slow methods", "json", "gzip"),
    *("urlencoded", "v1", "v1 explain", "v2", "v2 explain", "bad option", "unknown class", "two pictures"),
    *("no picture", "nothing", "broken json", "no json", "broken gzip", "text"),
    *("v2 shape", "bomb"),
)


@pytest.fixture(scope="module")
def bodies(coffee):
    return bodies_of(coffee)


@pytest.fixture(scope="module")
def side(imagenet, tmp_path_factory, next_ports):
    with started("asgi", imagenet, tmp_path_factory.mktemp("asgi"), next_ports()) as (_, side):
        yield side


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_that_of_torchserve_byte_for_byte(side, server, bodies, name):
    method, path, rest = bodies[name]
    here, there = ask(side, method, path, **rest), ask(server.inference, method, path, **rest)
    assert without_ids(here) == without_ids(there)
    assert here.headers.get("X-Camserve-Warnings") == there.headers.get("X-Camserve-Warnings")
    assert here.headers["X-Request-Id"]


def test_what_was_sent_as_a_form_and_is_none_gets_advice(side, bodies):
    """TorchServe answers the picture with 500."""
    for name, advice in (("lost as a form", "curl -T photo.jpg URL"), ("json as a form", "curl -T body.json URL")):
        method, path, rest = bodies[name]
        answer = ask(side, method, path, **rest)
        assert code_of(answer) == (400, "missing_image")
        assert advice in answer.json()["error"]["message"]


def test_what_reaches_no_model_is_refused_in_the_words_of_the_front(side, coffee):
    bare = Endpoint(side.url, "x")
    assert code_of(ask(bare, "POST", PREDICT, data=coffee)) == (401, "no_token")
    assert code_of(ask(bare, "GET", "/metrics")) == (401, "no_token")
    assert code_of(ask(side, "POST", "/predictions/other", data=coffee)) == (404, "no_such_model")
    assert code_of(ask(side, "POST", f"{PREDICT}/2.0", data=coffee)) == (404, "no_such_model")
    assert code_of(ask(side, "POST", "/models", data=coffee)) == (404, "no_such_route")
    assert code_of(ask(side, "DELETE", PREDICT)) == (405, "wrong_method")
    assert code_of(ask(side, "POST", f"{PREDICT}?target=cup", data=coffee)) == (400, "query_string")
    assert code_of(ask(side, "POST", f"{PREDICT}/1.0/target//", data=coffee)) == (400, "bad_path")
    assert code_of(ask(side, "POST", f"{PREDICT}/1.0/target/%0aforged", data=coffee)) == (400, "bad_path")
    assert code_of(ask(side, "POST", PREDICT, data=bytes(7_000_000))) == (413, "too_many_bytes")
    assert code_of(ask(side, "POST", PREDICT, data=iter([bytes(70_000)] * 100))) == (413, "too_many_bytes")
    twice = [("data", ("a.png", coffee)), ("data", ("b.png", coffee))]
    assert code_of(ask(side, "POST", PREDICT, files=twice)) == (400, "bad_request")
    broken = {"data": b"--x\r\n\r\n", "headers": {"Content-Type": "multipart/form-data"}}
    assert code_of(ask(side, "POST", PREDICT, **broken)) == (400, "bad_request")


def test_health_wants_no_token(side):
    paths = {"/ping": 200, "/v2/health/live": 200, "/v2/health/ready": 200}
    paths.update({"/v2/models/imagenet/ready": 200, "/v2/models/other/ready": 503})
    assert {path: requests.get(f"{side.url}{path}", timeout=10).status_code for path in paths} == paths


def test_a_browser_gets_the_page(side):
    html = {"Accept": "text/html"}
    stranger, known = ask(Endpoint(side.url, "x"), "GET", PREDICT, html), ask(side, "GET", PREDICT, html)
    for answer in (stranger, known):
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "espresso" in known.text
    assert "espresso" not in stranger.text
    assert code_of(ask(side, "GET", PREDICT)) == (405, "wrong_method")


def test_series_have_the_names_and_labels_that_torchserve_gives_them(side, server, coffee):
    def series(text):
        found = re.findall(r"^(cam_\w+)\{(.*)\} ", text, re.MULTILINE)
        return {(name, frozenset(re.findall(r'(\w+="[^"]*")', labels))) for name, labels in found}

    for target in (side, server.inference):
        assert ask(target, "POST", PREDICT, data=coffee, headers=PNG).ok
    here = series(ask(side, "GET", "/metrics").text)
    assert here >= series(requests.get(server.metrics_url, timeout=10).text)
    assert {name for name, _ in here} <= {*COUNTERS, *GAUGES}


def test_many_at_once_are_answered_each_by_itself(side, bodies):
    """Hostile files among good pictures, in shared batches."""
    good = ask_beside_hostile_files(side, bodies["form"], 16)
    for answer in (one.json() for one in good):
        assert answer["predictions"][0]["label"] == "espresso"
        assert len(answer["explanations"]) == 4


def test_a_signal_lets_what_is_under_way_be_answered(imagenet, tmp_path, next_ports, coffee):
    slow = {"files": {"data": coffee}, "data": {"method": "guided_gradcam,ablationcam"}}
    with started("asgi", imagenet, tmp_path, next_ports()) as (process, side), ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, side, "POST", PREDICT, **slow) for _ in range(4)]
        time.sleep(0.3)
        process.signal(signal.SIGTERM)
        assert process.end() == 0
        assert [one.result().status_code for one in waiting] == [200] * 4


def test_the_example_of_the_page_calls_the_same_seam(imagenet, tmp_path, coffee, server):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "engines.md").read_text(), re.DOTALL)
    (tmp_path / "model_store").mkdir()
    (tmp_path / "model_store" / "imagenet.mar").write_bytes(imagenet.read_bytes())
    (tmp_path / "photo.jpg").write_bytes(coffee)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = ask(server.inference, "POST", "/explanations/imagenet", data=coffee, headers=PNG)
    # Both answers are as long but for their request's name.
    length = len(answer.content) - len(answer.json()["request_id"]) + len("request-1")
    assert done.stdout.split() == ["200", "application/json", str(length)]


def test_a_second_ctrl_c_cuts_off_what_is_under_way_in_one_line(imagenet, tmp_path, next_ports, coffee):
    """asyncio's traces filled the terminal."""
    with started("asgi", imagenet, tmp_path, next_ports()) as (process, side):
        assert cut_off(process, side, coffee) == 128 + signal.SIGINT
    assert process.lines[-1] == "camserve: stopped by Ctrl-C"
    assert not [line for line in process.lines if "Traceback" in line or "CancelledError" in line]
