"""Speed is never bought with another answer: every precision agrees with float32 on real photos."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from camserve.errors import ConfigError
from camserve.pipeline import load_pipeline
from camserve.settings import RuntimeSpec
from camserve.unpack import read_contents
from camserve.values import RawRequest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ask(imagenet, tmp_path_factory, coffee, chelsea):
    folder = tmp_path_factory.mktemp("runtime")
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(folder)
    settings = read_contents(imagenet).settings

    def ask(**runtime):
        changed = replace(settings, runtime=RuntimeSpec(**runtime))
        pipeline = load_pipeline(folder, changed, "imagenet", "1.0", CPU)
        return [json.loads(each.body) for each in pipeline.answer([RawRequest(coffee), RawRequest(chelsea)])]

    return ask


@pytest.mark.parametrize(
    ("runtime", "probability", "correlation"),
    [
        ({"channels_last": False}, 1e-4, 0.99999),
        ({"precision": "bf16"}, 0.03, 0.99),
    ],
)
def test_another_runtime_gives_the_same_classes_and_maps(ask, runtime, probability, correlation):
    for plain, other in zip(ask(), ask(**runtime), strict=True):
        assert other["predictions"][0]["index"] == plain["predictions"][0]["index"]
        assert other["predictions"][0]["probability"] == pytest.approx(
            plain["predictions"][0]["probability"], abs=probability
        )
        grids = [np.array(told["explanations"][0]["grid"]).ravel() for told in (plain, other)]
        assert np.corrcoef(*grids)[0, 1] > correlation


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'fp16'"):
        RuntimeSpec(precision="f16")
