"""Networks that measure: an archive answers with values and units, and maps of the values."""

import re

import numpy as np
import pytest

from camserve.build.baseline.measure import summarise_reference
from camserve.build.baseline.reference import reference_of
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import Expected, load_recipe
from camserve.bulk.words import answer_lines
from camserve.drift.records import read_records, score
from camserve.errors import CamserveError, ConfigError
from camserve.monitor.audit import Audit
from camserve.monitor.baseline import Provenance, read_baseline
from camserve.monitor.counters import Counters
from camserve.monitor.signals import OF_QUANTITIES, SIGNALS
from camserve.serving.description import describe_model
from camserve.settings import AuditSpec
from camserve.values import RawRequest
from monitoring_parts import TableSink, collect
from output_archives import ask, build_outputs, gradcam_by_hand, network_of, pixels_of
from synthetic_photos import photo

END = "scores[:, 1:4] * 100"
PHOTOS = [photo(number) for number in range(8)]
HARDLY = "torch.sigmoid(scores[:, :1])"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    (folder / "names.txt").write_text("weight\nlength\nratio\n")
    archive = build_outputs(folder, END, task="regression", labels=str(folder / "names.txt"), units=["g", "cm", None])
    with open_archive(archive) as opened:
        yield opened


def test_values_stand_in_their_own_order_with_their_units_and_maps(pipeline):
    (answer,) = ask(pipeline, PHOTOS[0], explain=True)
    network, pixels = network_of(END), pixels_of(PHOTOS[0], pipeline.settings.input)
    expected = network(pixels)[0].tolist()
    predictions = answer["predictions"]
    assert [list(prediction) for prediction in predictions] == [["index", "label", "value", "unit", "score"]] * 3
    assert [(entry["label"], entry["unit"]) for entry in predictions] == [
        ("weight", "g"),
        ("length", "cm"),
        ("ratio", None),
    ]
    assert [entry["value"] for entry in predictions] == pytest.approx(expected, rel=1e-4)
    assert [entry["score"] for entry in predictions] == [entry["value"] for entry in predictions]
    assert answer["warnings"] == [warning for warning in answer["warnings"] if "explanation" in warning]
    for index, explanation in enumerate(answer["explanations"]):
        assert explanation["target"]["label"] == predictions[index]["label"]
        by_hand = gradcam_by_hand(network, pixels, {index + 1: 100})
        found = np.array(explanation["grid"]) * explanation["scale"]
        assert np.abs(found - by_hand).max() <= 1e-4 * max(by_hand.max(), 1e-9)


def test_a_contrast_is_the_difference_of_two_values(pipeline):
    (answer,) = ask(pipeline, PHOTOS[0], target="length", contrast="index:2")
    pixels = pixels_of(PHOTOS[0], pipeline.settings.input)
    by_hand = gradcam_by_hand(network_of(END), pixels, {2: 100, 3: -100})
    (explanation,) = answer["explanations"]
    assert (explanation["contrast"]["label"], explanation["contrast"]["unit"]) == ("ratio", None)
    assert np.abs(np.array(explanation["grid"]) * explanation["scale"] - by_hand).max() <= 1e-4 * by_hand.max()


def test_an_answer_has_every_value_unless_fewer_are_asked_for(tmp_path):
    with open_archive(build_outputs(tmp_path, "scores", task="regression")) as pipeline:
        every, few = ask(pipeline, *PHOTOS[:2], top_k=[None, "2"])
    assert [len(answer["predictions"]) for answer in (every, few)] == [6, 2]
    assert len(every["explanations"]) == 5


REFUSED = {
    "no probability": {"explain": "probability<0.6"},
    "no .*margin": {"explain": "margin<0.6"},
    "no .*predicted label": {"explain": "label=weight"},
    "no order: name outputs": {"target": "top:2"},
    "no order: name an output": {"contrast": "next"},
    "no class is called 'age'": {"target": "age"},
}


def test_what_has_no_meaning_for_values_is_refused_in_one_line(pipeline):
    for message, fields in REFUSED.items():
        (answer,) = ask(pipeline, PHOTOS[0], **fields)
        assert re.search(message, answer["error"]["message"]), message
        assert "\n" not in answer["error"]["message"]


def test_a_sigmoid_at_the_end_is_part_of_the_value(tmp_path):
    lines = []
    archive = build_outputs(tmp_path, HARDLY, lines.append, task="regression")
    assert "output: 1 numbers a picture, its values; task regression" in lines
    with open_archive(archive) as pipeline:
        (answer,) = ask(pipeline, PHOTOS[0])
        (refusal,) = ask(pipeline, PHOTOS[0], contrast="next")
        value = network_of(HARDLY)(pixels_of(PHOTOS[0], pipeline.settings.input)).item()
    assert answer["predictions"][0]["label"] == "output 0"
    assert answer["predictions"][0]["value"] == pytest.approx(value, rel=1e-4)
    assert "one output only" in refusal["error"]["message"]


WRONG = {
    "units: 1 for 3 outputs": {"units": ["g"]},
    "units are for task regression, not multiclass": {"task": "multiclass", "units": ["g", "cm", "kg"]},
    "output.activation has no use": {"output": {"activation": "softmax"}},
    "values of task regression have no order": {"defaults": {"target": "top:2"}},
}


def test_a_recipe_that_cannot_work_is_refused_in_one_line(tmp_path):
    for number, (message, recipe) in enumerate(WRONG.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(CamserveError, match=message) as refusal:
            build_outputs(folder, END, **{"task": "regression", **recipe})
        assert "\n" not in str(refusal.value)


def test_an_expected_value_guards_the_recipe(tmp_path):
    sample = tmp_path / "one.png"
    sample.write_bytes(PHOTOS[1])
    recipe = {"task": "regression", "samples": [str(sample)]}
    with pytest.raises(ConfigError, match="needs a value"):
        build_outputs(tmp_path, END, **recipe, expect={"one.png": {"label": "output 0", "probability": 1.0}})
    with pytest.raises(ConfigError, match=r"output 0 \S+, not output 0 12345.000 as expected"):
        build_outputs(tmp_path, END, **recipe, expect={"one.png": {"label": "output 0", "value": 12345.0}})
    assert load_recipe(tmp_path / "net.yaml").expect["one.png"] == Expected("output 0", value=12345.0)


def test_people_see_values_and_a_client_the_units(pipeline, tmp_path):
    (answer,) = ask(pipeline, PHOTOS[0])
    lines = answer_lines("photo.png", answer)
    assert re.fullmatch(r"  -?[0-9.e+]+ g  weight \(0\)", lines[1])
    assert re.fullmatch(r"  -?[0-9.e+]+  ratio \(2\)", lines[3].replace("    ", "  "))
    card = describe_model(pipeline.model, pipeline.heads, pipeline.settings)
    assert (card["task"], card["units"]) == ("regression", ["g", "cm", None])


def test_everything_but_probabilities_is_counted_and_recorded(pipeline, tmp_path):
    rows = collect(pipeline, PHOTOS)
    made = summarise_reference(reference_of(rows * 63), {}, Provenance("", "", "", "", "", "2026-01-01", 504), None)
    baseline = read_baseline(made.write())
    assert set(baseline.signals) == set(OF_QUANTITIES)
    assert {SIGNALS[name].family for name in SIGNALS if name not in OF_QUANTITIES} == {"predictions"}
    assert (baseline.unusual, baseline.classes.top) == (None, ())
    for counted_with in (None, baseline):
        sink = TableSink()
        counters = Counters(sink, counted_with, OF_QUANTITIES)
        audit = Audit(AuditSpec(str(tmp_path), rate=1.0), {"name": "n", "version": "1", "weights": ""}, lambda: None)
        pipeline.monitor.report_to(counters, audit)
        pipeline.answer([row for measured in rows for row in _again(measured)])
        pipeline.monitor.report_to()
        counters.close()
        audit.close()
        features = {labels[0] for metric, labels in sink.counts if metric == "cam_bin_total"}
        assert not features & {"confidence", "margin", "entropy", "energy"}
        assert sink.of("cam_bin_total")["brightness"] > 0
    records = read_records(tmp_path)
    assert records[0].predictions[1].keys() == {"index", "label", "value", "unit"}
    assert not set(records[0].signals) & {"confidence", "margin", "entropy", "energy"}
    with pytest.raises(ConfigError, match="no classes to hold against labels"):
        score(records, {record.request_id: 0 for record in records})


def _again(measured):
    return [
        RawRequest(PHOTOS[number], request_id=request.request_id) for number, request in enumerate(measured.requests)
    ]
