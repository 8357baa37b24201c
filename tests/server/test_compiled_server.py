"""Archives whose trunk is native code, made by a real compiler and served by a real TorchServe."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import requests
import torch

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.build.unpack import open_archive, read_contents
from camserve.fast.split import Split
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.serving.load import load_pipeline
from camserve.settings import RuntimeSpec
from camserve.values import RawRequest
from conftest import RECIPE

pytestmark = pytest.mark.server

METHODS = ("gradcam", "layercam", "ablationcam", "guided_gradcam")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    recipe = replace(load_recipe(RECIPE), name="compiled", runtime=RuntimeSpec(mode="aot"), methods=METHODS)
    return build_archive(recipe, tmp_path_factory.mktemp("compiled"), lambda line: None)


def test_a_compiled_archive_is_served_with_the_answers_of_an_eager_one(compiled, imagenet, tmp_path, coffee, chelsea):
    with open_archive(imagenet) as eager, Server([compiled], tmp_path, free_ports(18880)) as server:
        for photo in (coffee, chelsea):
            for method in METHODS:
                options = {"method": method, "target": "top:2"}
                side = server.inference
                served = requests.post(
                    f"{side.url}/predictions/compiled", files={"data": photo}, data=options, headers=side.headers
                )
                (alone,) = eager.answer([RawRequest(photo, options)])
                assert_alike(served.json(), json.loads(alone.body))
    log = (tmp_path / "logs" / "model_log.log").read_text()
    assert "runs eager" not in log


def assert_alike(told, expected):
    for got, wanted in zip(told["predictions"], expected["predictions"], strict=True):
        assert got["index"] == wanted["index"]
        assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
    for got, wanted in zip(told["explanations"], expected["explanations"], strict=True):
        assert got["status"] == wanted["status"] == "ok"
        assert np.abs(np.array(got["grid"]) - np.array(wanted["grid"])).max() <= 1e-3


def test_a_trunk_compiled_at_load_gives_the_same_answers(imagenet, coffee, chelsea, caplog, tmp_path):
    settings = replace(read_contents(imagenet).settings, runtime=RuntimeSpec(mode="compile"))
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(tmp_path)
    pipeline = load_pipeline(tmp_path, settings, "imagenet", "1.0", torch.device("cpu"))
    assert isinstance(pipeline.network, Split)
    rows = [RawRequest(photo) for photo in (coffee, chelsea, coffee)]
    with open_archive(imagenet) as eager:
        for got, wanted in zip(pipeline.answer(rows), eager.answer(rows), strict=True):
            assert_alike(json.loads(got.body), json.loads(wanted.body))
    assert "runs eager" not in caplog.text
