"""Archives whose trunk is native code, made by a real compiler and served by a real TorchServe."""

import json

import numpy as np
import pytest
import requests

from camserve.build.mar.unpack import open_archive, read_contents
from camserve.values import RawRequest

pytestmark = pytest.mark.server


def test_a_compiled_archive_is_served_with_the_answers_of_an_eager_one(compiled, serve, imagenet, coffee, chelsea):
    archive = compiled("fp32")
    with open_archive(imagenet) as eager, serve(archive) as server:
        for photo in (coffee, chelsea):
            for method in read_contents(archive).settings.methods:
                options = {"method": method, "target": "top:2"}
                side = server.inference
                served = requests.post(
                    f"{side.url}/predictions/compiled", files={"data": photo}, data=options, headers=side.headers
                )
                (alone,) = eager.answer([RawRequest(photo, options)])
                assert_alike(served.json(), json.loads(alone.body))
    log = (server.folder / "logs" / "model_log.log").read_text()
    assert "runs eager" not in log


def assert_alike(answer, expected):
    for got, wanted in zip(answer["predictions"], expected["predictions"], strict=True):
        assert got["index"] == wanted["index"]
        assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
    for got, wanted in zip(answer["explanations"], expected["explanations"], strict=True):
        assert got["status"] == wanted["status"] == "ok"
        assert np.abs(np.array(got["grid"]) - np.array(wanted["grid"])).max() <= 1e-3
