"""What docs/operating.md says of TorchServe's own frontend is so: each line of its table that a test can show."""

import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import faulty_network as faults
import pytest
import requests
from faulty_client import picture
from operating_page import commands, run

from camserve.errors import ConfigError
from camserve.operate.doctor.front import PROBES, check_front

pytestmark = pytest.mark.server

PREDICT = "/predictions/faulty"
FINE, SLOW = picture(faults.FINE), picture(faults.SLOW)


@pytest.fixture(scope="module")
def served(faulty_archive, serve):
    with serve(faulty_archive, enable_model_api="true", allowed_urls="none") as running:
        yield running


@pytest.fixture
def ask(served):
    def ask(method, path, headers=None, **options):
        given = served.inference.headers if headers is None else headers
        return requests.request(method, f"{served.inference.url}{path}", headers=given, timeout=30, **options)

    return ask


def exchange(served, data):
    """Send bytes on one connection; return what comes until it is closed."""
    port = int(served.inference.url.rpartition(":")[2])
    received = b""
    with socket.create_connection(("127.0.0.1", port), 30) as raw:
        raw.sendall(data)
        raw.settimeout(5)
        try:
            while more := raw.recv(65_536):
                received += more
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def request(served, path, body, *lines):
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {served.inference.token}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def test_health_and_preflights_want_a_token_and_the_description_does_not(ask):
    assert ask("GET", "/ping", {}).status_code == 400
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert ask("OPTIONS", PREDICT, preflight).status_code == 400
    assert ask("GET", "/api-description", {}).status_code == 200


def test_a_query_string_is_dropped(ask):
    answer = ask("POST", f"{PREDICT}?target=nothing-like-it", data=FINE)
    assert answer.status_code == 200


def test_a_request_of_two_framings_hides_another_one(served):
    """What a proxy that believes the length sends as one request is two here."""
    hidden = request(served, PREDICT, b"", "Content-Length: 0")
    body = f"{len(FINE):x}\r\n".encode() + FINE + b"\r\n0\r\n\r\n" + hidden
    sent = request(served, PREDICT, body, f"Content-Length: {len(body)}", "Transfer-Encoding: chunked")
    assert exchange(served, sent).count(b"HTTP/1.1 ") == 2


def test_a_pipelined_request_overtakes_the_one_before_it(served):
    first = request(served, PREDICT, SLOW, f"Content-Length: {len(SLOW)}")
    second = request(served, "/predictions/unknown", b"", "Content-Length: 0")
    assert exchange(served, first + second).startswith(b"HTTP/1.1 404 ")


def test_the_doctor_finds_what_reaches_torchserve(served):
    found = {finding.risk for finding in check_front(served.inference.url)}
    assert found == {risk for *_, risk in PROBES} | {"/ping wants a token: health probes fail"}
    with pytest.raises(ConfigError, match=r"nothing answers at http://127\.0\.0\.1:9: "):
        check_front("http://127.0.0.1:9")


def test_a_management_key_loads_any_local_folder_whatever_allowed_urls_says(served, faulty_archive, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.unpack_archive(faulty_archive, elsewhere, "zip")
    side = served.management
    params = {"url": str(elsewhere), "model_name": "other"}
    answer = requests.post(f"{side.url}/models", params=params, headers=side.headers, timeout=60)
    assert answer.status_code == 200
    assert served.workers("other")  # which runs the folder's code


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: apt-get install jq")
def test_a_key_is_renewed_and_the_old_one_ends(ask, served):
    old = served.inference.headers
    run(commands("renew"), FOLDER=served.folder, MANAGEMENT=served.management.url)
    assert served.inference.headers != old
    assert ask("GET", "/ping").status_code == 200
    assert ask("GET", "/ping", old).status_code == 400


def test_requests_that_a_removed_model_held_are_never_answered(served):
    side = served.inference

    def ask():
        try:
            requests.post(f"{side.url}{PREDICT}", headers=side.headers, data=SLOW, timeout=15)
        except requests.Timeout:
            return False
        return True

    with ThreadPoolExecutor(40) as pool:
        waiting = [pool.submit(ask) for _ in range(40)]
        time.sleep(1)
        management = served.management
        requests.delete(f"{management.url}/models/faulty/1.0", headers=management.headers, timeout=60)
        answered = [call.result() for call in waiting]
    assert not all(answered)
