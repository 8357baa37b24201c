"""What is measured of methods when an archive is built, on networks whose answers are known."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from camserve.build.mar.unpack import open_archive, read_contents
from camserve.build.trial.measure_methods import _absent, _correlate, _describe, redraw_classifier
from camserve.cli import main
from camserve.measures import Measures, MethodMeasure
from camserve.values import Explanation, RawRequest
from input_archives import build_means
from score_rows import row_of

DATA = Path(os.environ.get("CAMSERVE_DATA", ""))
PHOTOS = 60


@pytest.fixture(scope="module")
def measures(imagenet):
    return read_contents(imagenet).settings.measures


def test_maps_that_outlive_a_drawn_classifier_fail_the_sanity_check(measures):
    found = measures.methods
    assert found["eigencam"].random_weights == pytest.approx(1, abs=1e-3)
    assert found["layercam"].random_weights > 0.85
    assert abs(found["gradcam"].random_weights) < 0.3
    assert abs(found["gradcam"].other_class) < 0.3
    blind = {name for name, measure in found.items() if not measure.sane}
    assert blind == {"gradcam+", "gradcam-", "layercam", "gradcam++", "eigencam", "guided_gradcam"}


def test_an_answer_warns_of_what_was_measured_and_inspect_and_describe_show_it(imagenet, coffee, measures, capsys):
    with open_archive(imagenet) as pipeline:
        (response,) = pipeline.answer([RawRequest(coffee, {"method": "gradcam,layercam"})])
    codes = {(one["explanation"], one["code"]) for one in json.loads(response.body)["warnings"]}
    assert codes == {(1, "FAILS_SANITY_CHECK")}
    assert main(["inspect", str(imagenet), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["measures"]
    assert shown["methods"]["layercam"]["random_weights"] == measures.methods["layercam"].random_weights
    assert shown["photos"] == 2


def test_classes_that_are_not_in_photos_are_weak_and_predicted_ones_are_not(imagenet):
    if not (DATA / "imagenet-val-500").is_dir():
        pytest.skip("CAMSERVE_DATA names no folder of labelled photos")
    with (DATA / "imagenet-val-500" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:PHOTOS]
    random = np.random.default_rng(0)
    right, absent = [], []
    with open_archive(imagenet) as pipeline:
        for row in rows:
            label = int(row["class_index"])
            others = [int(index) for index in random.integers(1000, size=4) if index != label]
            target = ",".join(f"index:{index}" for index in (label, *others))
            photo = (DATA / "imagenet-val-500" / "images" / Path(row["file"]).name).read_bytes()
            answer = json.loads(pipeline.answer([RawRequest(photo, {"target": target})])[0].body)
            weak = {one["explanation"] for one in answer["warnings"] if one["code"] == "WEAK_EVIDENCE"}
            best = [prediction["index"] for prediction in answer["predictions"]]
            right += [0 in weak] if best[0] == label else []
            absent += [
                number in weak
                for number, explanation in enumerate(answer["explanations"])
                if explanation["status"] == "ok" and explanation["target"]["index"] not in (label, *best)
            ]
    assert len(right) > PHOTOS / 2 < len(absent)
    assert np.mean(absent) >= 0.95
    assert np.mean(right) <= 0.02


def test_without_a_photo_nothing_is_said_of_strength(tmp_path):
    contents = read_contents(build_means(tmp_path))
    measures = contents.settings.measures
    assert (measures.photos, measures.usual_gap) == (0, None)
    assert measures.methods["gradcam"].weak_below is None
    assert measures.methods["gradcam"].random_weights is not None


def test_what_the_builder_says_of_its_limit(imagenet, measures):
    settings = read_contents(imagenet).settings
    said, blind = _describe(settings, measures, True)
    assert "from 2 photos: up to 84% of predicted classes may lie below it (95 % interval)" in said
    assert "layercam" in blind
    assert "FAILS_SANITY_CHECK" in blind
    nothing = list(_describe(settings, Measures(methods={"gradcam": MethodMeasure()}), False))
    assert [line.split(" is said")[0] for line in nothing] == ["no WEAK_EVIDENCE", "no FAILS_SANITY_CHECK"]


def test_only_the_last_layer_is_drawn_and_without_a_row_for_each_class_nothing_is():
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    before = [weight.clone() for weight in network.parameters()]
    with torch.no_grad():
        assert redraw_classifier(network, 3)
        changed = [not torch.equal(one, other) for one, other in zip(before, network.parameters())]
        assert changed == [False, False, False, False, True, False]
        assert not redraw_classifier(network, 7)


@pytest.mark.parametrize(
    ("other", "expected"),
    [([[1, 2], [3, 9]], 1), ([[9, 3], [2, 1]], -1), ([[0, 0], [0, 0]], 0), ([[1, 1], [2, 2]], 2 / np.sqrt(5))],
)
def test_the_rank_correlation_is_spearmans(other, expected):
    maps = [Explanation("ok", "", "", "", None, grid=np.array(grid, float)) for grid in ([[1, 2], [3, 4]], other)]
    assert _correlate(*maps) == pytest.approx(expected)


def test_a_class_that_may_be_in_the_photo_is_none_of_the_absent():
    assert _absent(row_of([9.0, 8.9, -3.0])) == [2]
    assert _absent(row_of([1.0, 0.9, 0.8])) == []
    assert set(_absent(row_of([9.0, *np.linspace(0, -5, 99)]))) <= set(range(5, 100))
