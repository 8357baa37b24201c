"""Every route of TorchServe, and every kind of client, gets the same answer in its own shape."""

import base64
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import requests
from grpc_stub import Client

pytestmark = pytest.mark.server

PREDICT = "/predictions/imagenet"
CUP = {"target": "cup", "top_k": "1"}


@pytest.fixture(scope="module")
def rpc(server, tmp_path_factory):
    client = Client(server, tmp_path_factory.mktemp("stub"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def text(coffee):
    return base64.b64encode(coffee).decode()


def comparable(answer):
    return {name: value for name, value in answer.items() if name not in ("request_id", "warnings")}


@pytest.fixture(scope="module")
def expected(post, coffee):
    return comparable(post(PREDICT, files={"data": coffee}, data=CUP).json())


def v1(body):
    (answer,) = next(iter(json.loads(body).values()))
    return answer


def v2(body):
    return json.loads(json.loads(body)["outputs"][0]["data"][0])


def v2_body(text, **options):
    return {"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": [text], "parameters": options}]}


QUERY = "target=cup&top_k=1"
AS_BODY = {
    "header": (PREDICT, {"X-Camserve-Target": "cup", "x-camserve-top-k": "1"}),
    "path": (f"{PREDICT}/1.0/target/cup/top_k/1", {}),
    "explanations": ("/explanations/imagenet/1.0/target/cup/top_k/1", {}),
    "legacy": (f"/imagenet/predict?{QUERY}", {}),
    "legacy with version": (f"/imagenet/1.0/predict?{QUERY}", {}),
    "invoke": (f"/models/imagenet/invoke?{QUERY}", {}),
    "invocations": (f"/invocations?model_name=imagenet&{QUERY}", {}),
}
AS_JSON = {
    "json": (PREDICT, lambda text: {"data": text, **CUP}, json.loads),
    "json b64": (PREDICT, lambda text: {"image": {"b64": text}, **CUP}, json.loads),
    "v1 predict": ("/v1/models/imagenet:predict", lambda text: {"instances": [{"data": text, **CUP}]}, v1),
    "v1 explain": ("/v1/models/imagenet:explain", lambda text: {"instances": [{"b64": text}], **CUP}, v1),
    "v2 infer": ("/v2/models/imagenet/infer", lambda text: v2_body(text, **CUP), v2),
    "v2 explain": ("/v2/models/imagenet/explain", lambda text: v2_body(text, **CUP), v2),
}


@pytest.mark.parametrize("route", AS_BODY)
def test_a_picture_as_the_body(post, coffee, expected, route):
    path, headers = AS_BODY[route]
    answer = post(path, headers={"Content-Type": "image/png", **headers}, data=coffee)
    assert comparable(answer.json()) == expected


@pytest.mark.parametrize("route", AS_JSON)
def test_a_picture_inside_json(post, text, expected, route):
    path, body, read = AS_JSON[route]
    answer = post(path, json=body(text))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert comparable(read(answer.content)) == expected


def test_a_v1_body_is_answered_under_the_key_of_its_verb(post, text):
    for verb, key in (("predict", "predictions"), ("explain", "explanations")):
        body = {"instances": [{"data": text}, {"data": "no base64!"}, {"data": text, "explain": "false"}]}
        answer = post(f"/v1/models/imagenet:{verb}", json=body)
        assert list(answer.json()) == [key]
        first, refused, last = answer.json()[key]
        assert refused["error"]["code"] == "bad_base64"
        assert len(first["explanations"]) == 1
        assert len(last["explanations"]) == (verb == "explain")


def test_grpc_calls(rpc, coffee, expected):
    assert comparable(json.loads(rpc.predict(data=coffee, **CUP))) == expected
    assert comparable(json.loads(rpc.stream(data=coffee, **CUP))) == expected
    assert json.loads(rpc.predict(data=b"nothing"))["error"]["code"] == "unsupported_format"
    assert json.loads(rpc.stream(data=coffee, target="cuppp"))["error"]["code"] == "unknown_class"


def test_a_grpc_call_for_models_with_a_state_never_reaches_the_worker(rpc, coffee):
    """With a sequence, it does: see test_supervisor.py."""
    (answer,) = rpc.stream_both_ways(data=coffee)
    assert answer.prediction == b""
    assert "sequenceId is required" in answer.status.message


def test_one_batch_may_mix_every_route(post, rpc, server, coffee, text, expected):
    pids = [worker["pid"] for worker in server.workers("imagenet")]
    calls = [lambda path=path, body=body: post(path, json=body(text)).content for path, body, _ in AS_JSON.values()]
    reads = [read for _, _, read in AS_JSON.values()]
    for path, given in AS_BODY.values():
        headers = {"Content-Type": "image/png", **given}
        calls.append(lambda path=path, headers=headers: post(path, headers=headers, data=coffee).content)
        reads.append(json.loads)
    calls += [lambda: rpc.predict(data=coffee, **CUP), lambda: rpc.stream(data=coffee, **CUP)]
    reads += [json.loads] * 2
    plain = lambda: post(PREDICT, files={"data": coffee}, data={"explain": "false"}).content  # noqa: E731
    with ThreadPoolExecutor(2 * len(calls)) as pool:
        bodies = list(pool.map(lambda call: call(), [one for call in calls for one in (call, plain)]))
    for read, body in zip(reads, bodies[::2], strict=True):
        answer = read(body)
        assert answer["explanations"][0]["target"]["label"] == "cup"
        wanted = expected["predictions"][0]["probability"]
        assert answer["predictions"][0]["probability"] == pytest.approx(wanted, abs=1e-4)
    assert all(json.loads(body)["explanations"] == [] for body in bodies[1::2])
    assert [worker["pid"] for worker in server.workers("imagenet")] == pids


def test_the_describe_call_returns_the_model_description(server):
    side = server.management
    answer = requests.get(f"{side.url}/models/imagenet?customized=true", headers=side.headers, timeout=60)
    description = answer.json()[0]["customizedMetadata"]
    assert len(description["labels"]) == 1000
    assert {"layers", "methods", "input", "limits", "options"} <= set(description)


def test_curl_in_three_ways(server, coffee, expected, tmp_path):
    (tmp_path / "coffee.png").write_bytes(coffee)
    url, token = f"{server.inference.url}{PREDICT}", f"Authorization: Bearer {server.inference.token}"
    options = ["-H", "X-Camserve-Target: cup", "-H", "X-Camserve-Top-K: 1"]
    form = ["-F", "target=cup", "-F", "top_k=1"]
    sendings = [
        [*options, "-T", "coffee.png"],
        [*form, "-F", "data=@coffee.png"],
        [*options, "-H", "Content-Type: application/octet-stream", "--data-binary", "@coffee.png"],
    ]
    for arguments in sendings:
        command = ["curl", "-sS", "-H", token, *arguments, url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=60)
        assert comparable(json.loads(done.stdout)) == expected


def test_curl_that_loses_the_picture_gets_the_right_command(server, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    token = f"Authorization: Bearer {server.inference.token}"
    command = ["curl", "-sS", "-H", token, "--data-binary", "@empty", f"{server.inference.url}{PREDICT}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert "curl -T photo.jpg" in json.loads(done.stdout)["error"]["message"]


def test_two_pictures_in_one_request_are_refused_by_their_names(post, coffee, text):
    for sent in (
        {"files": {"data": coffee, "image": coffee}},
        {"files": {"body": coffee, "data": coffee}},
        {"json": {"data": text, "b64": text}},
    ):
        answer = post(PREDICT, **sent)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_json")
        assert (
            " and ".join(sorted(next(iter(sent.values())), key=("data", "image", "body", "b64").index)) in answer.text
        )


def test_httpx(server, coffee, expected):
    with httpx.Client(headers=server.inference.headers, timeout=60) as client:
        answer = client.post(f"{server.inference.url}{PREDICT}", files={"data": coffee}, data=CUP)
    assert comparable(answer.json()) == expected


@pytest.mark.skipif("KSERVE_PYTHON" not in os.environ, reason="KSERVE_PYTHON is not set; scripts/test sets it")
def test_kserves_own_client(server, text):
    """KServe's package asks for other versions than the tests' own, so it lives in another environment."""
    script = Path(__file__).parent / "kserve_client.py"
    side = server.inference
    done = subprocess.run(
        [os.environ["KSERVE_PYTHON"], str(script), side.url, side.token],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["predict"]["predictions"][0]["predictions"][0]["label"] == "espresso"
    assert answers["explain"]["explanations"][0]["explanations"][0]["target"]["label"] == "cup"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_any_http_method_without_a_picture_is_refused(server, method):
    answer = requests.request(method, f"{server.inference.url}{PREDICT}", headers=server.inference.headers, timeout=60)
    assert 400 <= answer.status_code < 500


def test_a_missing_or_wrong_token_is_refused_on_both_sides(server):
    for side, path in ((server.inference, PREDICT), (server.management, "/models")):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert requests.get(f"{side.url}{path}", headers=headers, timeout=60).status_code == 400
    crossed = requests.get(f"{server.management.url}/models", headers=server.inference.headers, timeout=60)
    assert crossed.status_code == 400
