"""TorchServe's service envelopes, as KServe's runtime sets them: the stock image_classifier beside camserve."""

import base64
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
import requests
import yaml
from PIL import Image

from camserve.errors import ConfigError

pytestmark = pytest.mark.server

SETTINGS = {
    # The stock handler leaves it to TorchServe to parse JSON.
    "body": {"service_envelope": "body", "decode_input_request": "true"},
    "json": {"service_envelope": "json", "decode_input_request": "true"},
    "kserve": {"service_envelope": "kserve", "decode_input_request": "false"},
    "kservev2": {"enable_envvars_config": "true"},  # and the environment says which
}


@pytest.fixture(scope="module", params=SETTINGS)
def envelope(request, adopted, serve):
    with pytest.MonkeyPatch.context() as patch:
        if "service_envelope" not in SETTINGS[request.param]:
            patch.setenv("TS_SERVICE_ENVELOPE", request.param)
        with serve(*adopted, **SETTINGS[request.param]) as server:
            yield request.param, server


@pytest.fixture
def post(envelope):
    side = envelope[1].inference

    def post(path, headers=None, **body):
        return requests.post(f"{side.url}{path}", headers={**side.headers, **(headers or {})}, timeout=60, **body)

    return post


@pytest.fixture(scope="module")
def text(coffee):
    return base64.b64encode(coffee).decode()


def v2(text, **parameters):
    return {"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": [text], "parameters": parameters}]}


def stock_answer(name, post, text):
    """Return what image_classifier says under this envelope, and camserve to the same request."""
    if name == "body":
        return [post(f"/predictions/{model}", json={"data": text}).json() for model in ("old", "pets")]
    if name == "kservev2":
        old, new = (post(f"/v2/models/{model}/infer", json=v2(text)).json() for model in ("old", "pets"))
        assert set(old) <= set(new)
        for answer in (old, new):
            assert (answer["outputs"][0]["datatype"], answer["outputs"][0]["shape"]) == ("BYTES", [1])
        return old["outputs"][0]["data"][0], json.loads(new["outputs"][0]["data"][0])
    bodies = [post(f"/v1/models/{model}:predict", json={"instances": [{"data": text}]}) for model in ("old", "pets")]
    assert [list(body.json()) for body in bodies] == [["predictions"]] * 2
    return [body.json()["predictions"][0] for body in bodies]


def test_an_envelope_answers_as_it_did_before(envelope, post, text):
    old, new = stock_answer(envelope[0], post, text)
    assert list(new) == list(old)
    assert list(new.values()) == pytest.approx(list(old.values()), abs=1e-4)


def test_every_protocol_is_served_and_explained_under_every_envelope(post, text, coffee):
    v1 = {"instances": [{"data": text, "target": "cat"}, {"data": "no base64!"}]}
    first, second = post("/v1/models/pets:explain", json=v1).json()["explanations"]
    assert first["explanations"][0]["target"]["label"] == "cat"
    assert second["error"]["code"] == "bad_base64"
    answer = post("/v2/models/pets/explain", json=v2(text, target="cat")).json()
    row = json.loads(answer["outputs"][0]["data"][0])
    assert row["explanations"][0]["target"]["label"] == "cat"
    refused = post("/v2/models/pets/infer", json=v2("no base64!"))
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_base64")
    form = post("/predictions/pets", files={"data": coffee}, data={"target": "cat"}).json()
    assert form["explanations"][0]["target"]["label"] == "cat"


def test_a_picture_asked_for_by_accept_is_one(post, coffee):
    answer = post("/predictions/pets", {"Accept": "image/png"}, data=coffee)
    assert Image.open(BytesIO(answer.content)).format == "PNG"


def test_a_batch_of_all_kinds_is_answered_whole(envelope, post, text, coffee):
    """A stock envelope opens the first request of a batch alone, and the others are lost."""
    (worker,) = envelope[1].workers("pets")
    calls = [
        lambda: post("/v1/models/pets:explain", json={"instances": [{"data": text}]}).json()["explanations"][0],
        lambda: json.loads(post("/v2/models/pets/explain", json=v2(text)).json()["outputs"][0]["data"][0]),
        lambda: post("/explanations/pets", data=coffee).json(),
    ] * 6
    with ThreadPoolExecutor(len(calls)) as pool:
        answers = list(pool.map(lambda call: call(), calls))
    assert all(answer["explanations"][0]["status"] in ("ok", "blank") for answer in answers)
    assert [running["pid"] for running in envelope[1].workers("pets")] == [worker["pid"]]


def test_the_management_side_still_gets_the_model_description(envelope):
    side = envelope[1].management
    answer = requests.get(f"{side.url}/models/pets?customized=true", headers=side.headers, timeout=60)
    assert "methods" in answer.json()[0]["customizedMetadata"]


def test_asynchronous_communication_is_refused_in_one_line(adopted, serve, tmp_path):
    changed = tmp_path / "pets.mar"
    with zipfile.ZipFile(adopted[1]) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "model-config.yaml":
                content = yaml.safe_dump({**yaml.safe_load(content), "asyncCommunication": True}).encode()
            new.writestr(name, content)
    with pytest.raises(ConfigError, match=r"camserve: asyncCommunication: true .*leave it out"), serve(changed):
        pass
