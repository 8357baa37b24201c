"""Networks of several outputs: a request says which head it asks, and one forward pass serves them all."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from camserve.build.baseline.measure import Collector
from camserve.build.mar.unpack import open_archive
from camserve.build.probe.share import share_through
from camserve.build.probe.target import find_target
from camserve.drift.audit_log import sample_of
from camserve.drift.records import read_records
from camserve.errors import ConfigError
from camserve.monitor import Monitor
from camserve.monitor.audit import Audit
from camserve.network.output import ScoringNetwork
from camserve.output_spec import OutputSpec
from camserve.serving.batch import Classifier
from camserve.serving.description import describe_model
from camserve.serving.pipeline import Pipeline
from camserve.settings import AuditSpec
from camserve.values import Layer, RawRequest
from monitoring_parts import collect
from output_archives import ask, build_outputs, gradcam_by_hand, network_of, pixels_of
from small_networks import pictures, settle
from synthetic_photos import photo

# Scores 0 and 1 in a softmax, 2 and 3 in sigmoids, 4 and 5 as they stand; the third head is named as its key.
END = "{'a': scores[:, :2].softmax(1), 'b': torch.sigmoid(scores[:, 2:4]), 'size': scores[:, 4:] * 10}"
HEADS = {
    "color": {"select": "a"},
    "shape": {"select": "b", "task": "multilabel", "threshold": 0.2},
    "size": {"task": "regression", "units": ["cm", "g"]},
}
LABELS = {"color": ["red", "blue"], "shape": ["circle", "square"], "size": ["length", "weight"]}
FIRST = {"color": 0, "shape": 2, "size": 4}
PHOTOS = [photo(number) for number in range(4)]
NAMES = ["color", "shape", "size", "shape"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    for name, labels in LABELS.items():
        (folder / f"{name}.txt").write_text("\n".join(labels))
    heads = {name: {**head, "labels": f"{name}.txt"} for name, head in HEADS.items()}
    lines = []
    return build_outputs(folder, END, lines.append, heads=heads), lines


@pytest.fixture(scope="module")
def pipeline(built):
    with open_archive(built[0]) as opened:
        yield opened


def test_one_pass_answers_rows_that_ask_different_heads(pipeline):
    passes = []
    handle = pipeline.network.get_submodule("features").register_forward_hook(lambda *_: passes.append(1))
    answers = ask(pipeline, *PHOTOS, head=NAMES, target="index:0,index:1")
    handle.remove()
    assert passes == [1]
    for body, name, answer in zip(PHOTOS, NAMES, answers):
        pixels = pixels_of(body, pipeline.settings.input)
        returned = network_of(END)(pixels)
        assert answer["head"] == name
        values = {"color": "a", "shape": "b", "size": "size"}[name]
        for entry in answer["predictions"]:
            assert entry["label"] == LABELS[name][entry["index"]]
            number = entry["value" if name == "size" else "probability"]
            assert number == pytest.approx(returned[values][0, entry["index"]].item(), rel=1e-4, abs=1e-5)
        factor = 10 if name == "size" else 1
        for index, explanation in enumerate(answer["explanations"]):
            by_hand = gradcam_by_hand(network_of(END), pixels, {FIRST[name] + index: factor})
            found = np.array(explanation["grid"]) * explanation["scale"]
            assert np.abs(found - by_hand).max() <= 1e-4 * max(by_hand.max(), 1e-9), (name, index)


def test_the_first_head_is_the_default_and_a_contrast_stays_within_its_head(pipeline):
    (plain,), (asked,) = ask(pipeline, PHOTOS[0]), ask(pipeline, PHOTOS[0], head="color")
    assert {**plain, "request_id": ""} == {**asked, "request_id": ""}
    assert plain["head"] == "color"
    (answer,) = ask(pipeline, PHOTOS[1], head="size", target="weight", contrast="length")
    by_hand = gradcam_by_hand(network_of(END), pixels_of(PHOTOS[1], pipeline.settings.input), {5: 10, 4: -10})
    found = np.array(answer["explanations"][0]["grid"]) * answer["explanations"][0]["scale"]
    assert np.abs(found - by_hand).max() <= 1e-4 * by_hand.max()


def test_a_wrong_head_is_answered_with_the_right_ones_and_another_heads_class_is_unknown(pipeline):
    wrong, foreign = ask(pipeline, *PHOTOS[:2], head=["colour", "shape"], target=["red", "red"])
    assert re.search("'colour' is not one of: color, shape, size; did you mean 'color'", wrong["error"]["message"])
    assert foreign["error"]["code"] == "unknown_class"


def test_the_card_lists_the_heads(pipeline):
    card = json.loads(json.dumps(describe_model(pipeline.model, pipeline.heads, pipeline.settings)))
    assert card["labels"] == LABELS["color"]
    assert {name: head["labels"] for name, head in card["heads"].items()} == LABELS
    assert card["heads"]["size"] == {"task": "regression", "labels": LABELS["size"], "units": ["cm", "g"]}


def test_the_builder_says_what_it_found_of_each_head(built):
    assert [line for line in built[1] if "output: " in line] == [
        "head color: output: 'a', 2 numbers a picture, the result of a softmax: the score is what that is given; "
        "task multiclass",
        "head shape: output: 'b', 2 numbers a picture, the result of a sigmoid: the score is what that is given; "
        "task multilabel",
        "head size: output: 'size', 2 numbers a picture, its values; task regression",
    ]


def test_signals_are_those_of_the_default_head(pipeline, tmp_path):
    (plain,) = collect(pipeline, PHOTOS)
    audit = Audit(AuditSpec(str(tmp_path), rate=1.0), {"name": "n", "version": "1", "weights": ""}, lambda: None)
    pipeline.monitor.report_to(audit)
    pipeline.answer([RawRequest(body, {"head": name}) for body, name in zip(PHOTOS, NAMES)])
    pipeline.monitor.report_to()
    audit.close()
    records = sample_of(read_records(tmp_path))
    assert [record.head for record in records] == ["", "shape", "size", "shape"]
    assert [record.best is None for record in records] == [False, True, True, True]
    for number, record in enumerate(records):
        assert record.signals["confidence"] == pytest.approx(plain.values[number, 0], rel=1e-5)
        assert number == 0 or "area" not in record.signals


def test_the_doubts_of_the_first_head_are_no_warnings_of_another(pipeline):
    monitor = Monitor(pipeline.monitor.map_filter, None, low_confidence=2.0)
    monitor.report_to(Collector())
    classifier = Classifier(pipeline.network, pipeline.heads, torch.device("cpu"), {})
    doubtful = Pipeline(classifier, pipeline.settings, pipeline.model, monitor)
    answers = ask(doubtful, *PHOTOS, head=NAMES)
    warned = ["LOW_CONFIDENCE" in [warning["code"] for warning in answer["warnings"]] for answer in answers]
    assert warned == [True, False, False, False]


def test_defaults_that_name_classes_are_those_of_the_first_head(tmp_path):
    heads = {"one": {"select": "a"}, "two": {"select": "size", "task": "regression"}}
    defaults = {"target": "class 1", "explain": "probability<2"}
    with open_archive(build_outputs(tmp_path, END, heads=heads, defaults=defaults)) as pipeline:
        one, two = ask(pipeline, *PHOTOS[:2], head=["one", "two"])
    assert [explanation["target"]["label"] for explanation in one["explanations"]] == ["class 1"]
    assert [explanation["target"]["label"] for explanation in two["explanations"]] == ["output 0", "output 1"]


def test_a_network_of_one_output_knows_no_heads(tmp_path):
    with open_archive(build_outputs(tmp_path, "scores")) as pipeline:
        (plain,), (refused,) = ask(pipeline, PHOTOS[0]), ask(pipeline, PHOTOS[0], head="x")
        assert "heads" not in describe_model(pipeline.model, pipeline.heads, pipeline.settings)
    assert "head" not in plain
    assert "one output only" in refused["error"]["message"]


WRONG = {
    "task, labels beside heads: say it of each head": {"heads": HEADS, "task": "multiclass", "labels": "index"},
    r"heads.shape: the network ends in a sigmoid": {"heads": {"color": HEADS["color"], "shape": {"select": "b"}}},
    r"heads.x: which output holds the scores\? .*'a' \(N, 2\), 'b' \(N, 2\)": {"heads": {"x": {}, "color": {}}},
    "head 'a b': a name has letters": {"heads": {"a b": {"select": "a"}, "c": {"select": "a"}}},
}


def test_heads_that_cannot_work_are_refused_in_one_line(tmp_path):
    for number, (message, recipe) in enumerate(WRONG.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ConfigError, match=message):
            build_outputs(folder, END, **recipe)


class Branches(nn.Module):
    """Each head has a convolution of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, 4), nn.Conv2d(3, 6, 3, 4)
        self.heads = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2)])

    def forward(self, pixels):
        return [head(conv(pixels).mean((2, 3))) for head, conv in zip(self.heads, (self.one, self.two))]


def test_a_layer_of_one_head_alone_has_no_share_of_the_other():
    network = ScoringNetwork(settle(Branches()), OutputSpec("0", name="a"), OutputSpec("1", name="b"))
    pixels = torch.cat([pictures(), -pictures()])
    assert share_through(network, (Layer("one"),), pixels) == pytest.approx(0, abs=1e-6)
    assert share_through(network, (Layer("one"), Layer("two")), pixels) == pytest.approx(1)
    target = find_target(network, pixels)
    assert (sorted(target.members), target.share) == (["one", "two"], pytest.approx(1))
