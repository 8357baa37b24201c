"""Archives whose trunk runs in OpenVINO, served by a real TorchServe in each precision."""

import json
from dataclasses import replace

import numpy as np
import pytest
import requests

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import QuantiseChoice, load_recipe
from camserve.settings import RuntimeSpec
from camserve.values import RawRequest
from model_file import quiet, write_pets

pytestmark = pytest.mark.server

METHODS = ("gradcam", "layercam", "ablationcam", "guided_gradcam")  # the last asks the eager network


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    def build(name, runtime):
        folder = tmp_path_factory.mktemp(name)
        recipe = replace(load_recipe(write_pets(folder)), name=name, runtime=runtime, methods=METHODS)
        if runtime.precision == "int8":
            recipe = replace(recipe, quantise=QuantiseChoice(None, 0.5, 0.5))
        return build_archive(recipe, folder, quiet)

    return build


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_archive_is_served_in_openvino_with_the_answers_that_it_gives_in_process(
    precision, build, serve, coffee, chelsea
):
    archive = build("fast", RuntimeSpec(mode="openvino", precision=precision))
    # Of float32 the eager archive gives the same.
    expected = build("eager", RuntimeSpec()) if precision == "fp32" else archive
    with open_archive(expected) as alone, serve(archive) as server:
        side = server.inference
        for photo in (coffee, chelsea):
            for method in METHODS:
                options = {"method": method, "target": "top:2"}
                served = requests.post(
                    f"{side.url}/predictions/fast",
                    headers=side.headers,
                    timeout=60,
                    files={"data": photo},
                    data={**options, "explain": "true"},
                )
                (answer,) = alone.answer([RawRequest(photo, {**options, "explain": True})])
                assert_alike(served.json(), json.loads(answer.body))
        side = server.management
        described = requests.get(f"{side.url}/models/fast?customized=true", headers=side.headers, timeout=60)
    runtime = described.json()[0]["customizedMetadata"]["runtime"]
    assert (runtime["mode"], runtime["precision"]) == ("openvino", precision)
    assert "slowed" not in runtime
    assert "mode eager" not in (server.folder / "logs" / "model_log.log").read_text()


def assert_alike(answer, expected):
    for got, wanted in zip(answer["predictions"], expected["predictions"], strict=True):
        assert got["index"] == wanted["index"]
        assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
    for got, wanted in zip(answer["explanations"], expected["explanations"], strict=True):
        assert got["status"] == wanted["status"]
        assert np.abs(np.array(got["grid"]) - np.array(wanted["grid"])).max() <= 1e-3
