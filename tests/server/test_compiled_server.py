"""Archives whose trunk runs in OpenVINO, served by a real TorchServe in each precision."""

import json

import numpy as np
import pytest
import requests

from camserve.build.unpack import open_archive, read_contents
from camserve.values import RawRequest

pytestmark = pytest.mark.server


def ask(server, path, **body):
    side = server.inference
    return requests.post(f"{side.url}{path}", headers=side.headers, timeout=60, **body)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_archive_is_served_in_openvino_with_the_answers_that_it_gives_in_process(
    precision, compiled, serve, imagenet, coffee, chelsea
):
    archive = compiled(precision)
    # Of float32 the eager archive gives the same.
    with open_archive(imagenet if precision == "fp32" else archive) as alone, serve(archive) as server:
        for photo in (coffee, chelsea):
            for method in read_contents(archive).settings.methods:
                options = {"method": method, "target": "top:2"}
                served = ask(server, "/predictions/compiled", files={"data": photo}, data=options)
                (expected,) = alone.answer([RawRequest(photo, options)])
                assert_alike(served.json(), json.loads(expected.body))
        side = server.management
        described = requests.get(f"{side.url}/models/compiled?customized=true", headers=side.headers, timeout=60)
    runtime = described.json()[0]["customizedMetadata"]["runtime"]
    assert (runtime["mode"], runtime["precision"]) == ("openvino", precision)
    assert "slowed" not in runtime
    assert "mode eager" not in (server.folder / "logs" / "model_log.log").read_text()


def assert_alike(answer, expected):
    for got, wanted in zip(answer["predictions"], expected["predictions"], strict=True):
        assert got["index"] == wanted["index"]
        assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
    for got, wanted in zip(answer["explanations"], expected["explanations"], strict=True):
        assert got["status"] == wanted["status"] == "ok"
        assert np.abs(np.array(got["grid"]) - np.array(wanted["grid"])).max() <= 1e-3
