"""docs/answers.md and README.md show the fields that answers have, and no others."""

import json
import re
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from camserve.answer.respond import ModelName
from camserve.build.mar.unpack import open_archive
from camserve.labels import Labels
from camserve.monitor import Monitor
from camserve.output_spec import line_up
from camserve.serving.engines.outputs import OUTPUTS
from camserve.serving.engines.v2 import PROTOCOL
from camserve.serving.load import Classifier
from camserve.serving.pipeline import Pipeline
from camserve.settings import load_settings
from camserve.values import RawRequest
from colour_pipeline import ColourNet

ROOT = Path(__file__).parents[2]
ANSWERS, CLIENTS = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("answers", "clients"))
FORMATS = "grid,overlay,boxes"
# Every option that adds a field, and every part of an answer that may be there or not.
REQUESTS = (
    {"details": "all", "contrast": "next", "format": FORMATS},
    {"method": "eigencam"},
    {"compat": "pytorch-grad-cam"},
    {"head": "amount"},
    {"evidence": "against"},
    {"channels": "top:1"},
    {"explain": "false"},
)


def table(page, title):
    """Return the names of the first column of the table under a heading."""
    section = re.search(rf"^## {title}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.fixture(scope="module")
def answers():
    settings = load_settings(
        {
            "model": {"factory": "tests:ColourNet", "source_sha256": "0123456789abcdef"},
            "input": {"resize": [16, 16], "crop": None, "mean": [0, 0, 0], "std": [1, 1, 1]},
            "layers": [{"name": "pool", "grid": [4, 4]}],
            "outputs": [{"name": "colour"}, {"name": "amount", "task": "regression", "units": ["%"]}],
            "methods": ["gradcam", "eigencam"],
            # beside which every map is weak
            "measures": {"photos": 1, "usual_gap": 1, "methods": {"gradcam": {"usual_mass": 1e6, "weak_below": 0.9}}},
        }
    )
    heads = line_up(settings.outputs, [Labels(["red", "green"]), Labels(["blue"])])
    classifier = Classifier(ColourNet().eval(), heads, torch.device("cpu"), {})
    pipeline = Pipeline(classifier, settings, ModelName("colours", "1.0", "sha256:0123", "0a1b2c"), Monitor())
    buffer = BytesIO()
    Image.new("RGB", (16, 16), (51, 204, 102)).save(buffer, "PNG")
    bodies = pipeline.answer([RawRequest(buffer.getvalue(), options, request_id="x") for options in REQUESTS])
    assert {body.status for body in bodies} == {200}
    return [json.loads(body.body) for body in bodies]


def keys(dictionaries):
    return {key for dictionary in dictionaries for key in dictionary}


def explanations(answers):
    return [explanation for answer in answers for explanation in answer["explanations"]]


def test_the_fields_of_an_answer_are_those_of_the_table(answers):
    assert table(ANSWERS, "An answer") - {"name", "version", "weights", "code", "message"} == keys(answers)
    assert table(ANSWERS, "The input of an answer") >= keys(answer["input"] for answer in answers)
    for answer in answers:
        assert set(answer["model"]) == {"name", "version", "weights"}


def test_the_fields_of_a_prediction_are_those_of_the_table(answers):
    documented = table(ANSWERS, "A prediction") - {"regression"}
    assert keys(row for answer in answers for row in answer["predictions"]) == documented
    targets = [explanation["target"] for explanation in explanations(answers)]
    assert keys(targets) == {*documented, "asked"}
    assert keys(one["contrast"] for one in explanations(answers) if one["contrast"]) <= documented


def test_the_fields_of_an_explanation_are_those_of_the_table(answers):
    assert table(ANSWERS, "An explanation") == keys(explanations(answers))
    assert keys(one["balance"] for one in explanations(answers)) == {"positive", "negative", "share_of_score"}


def test_the_fields_of_a_warning_are_documented(answers):
    assert keys(warning for answer in answers for warning in answer["warnings"]) == {"code", "message", "explanation"}
    assert "A warning about one map has `explanation` too" in ANSWERS


def test_the_outputs_and_parameters_of_v2_are_those_of_the_code():
    assert table(CLIENTS, "v2, the Open Inference Protocol") == set(OUTPUTS)
    section = CLIENTS.partition("## v2")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in section for name in set(PROTOCOL) - {"binary_data_size"})


def shape(value):
    """Return a value's keys, and the shapes of its entries; of a list, those of its first one."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def numbers(value):
    """Return all numbers in a value, of each list the first entry alone."""
    if isinstance(value, dict):
        return [number for entry in value.values() for number in numbers(entry)]
    if isinstance(value, list):
        return numbers(value[0]) if value else []
    return [float(value)] if isinstance(value, (int, float)) else []


def test_the_example_of_the_readme_is_a_real_answer(imagenet, coffee):
    (written,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shown = json.loads(written.replace(", …", "").replace("…", ""))
    with open_archive(imagenet) as pipeline:
        (body,) = pipeline.answer([RawRequest(coffee, request_id="x")])
    answer = json.loads(body.body)
    assert shape(shown) == shape(answer)
    assert numbers(shown) == pytest.approx(numbers(answer), rel=2e-3, abs=2e-4)
    for name in ("model", "input"):
        assert shown[name] == answer[name]
    assert shown["predictions"][0]["label"] == answer["predictions"][0]["label"]
