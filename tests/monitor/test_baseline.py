"""The baseline: bins, thresholds, the file, and the commands that measure it."""

import json
import os
import types
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from camserve.build.baseline.measure import LEAST_IMAGES, TOP_CLASSES, class_bins, quantile_bins, summarise_reference
from camserve.build.baseline.reference import reference_of
from camserve.build.mar.unpack import open_archive, read_contents
from camserve.cli import main
from camserve.errors import ConfigError
from camserve.monitor.baseline import Bins, Provenance, load_baseline, read_baseline
from camserve.monitor.binning import Binning
from camserve.monitor.signals import OF_QUANTITIES, SIGNALS
from camserve.monitor.views import Predictions
from camserve.serving.description import describe_model
from camserve.values import RawRequest
from monitoring_parts import PHOTOS, collect, random_rows
from synthetic_photos import photo, write_photos


def test_a_bin_holds_a_tenth():
    values = np.random.default_rng(0).normal(size=2000)
    bins = quantile_bins(values, 10)
    assert bins.counts == (200,) * 10
    np.testing.assert_allclose(bins.edges, np.quantile(values, np.arange(1, 10) / 10), atol=0.02)
    assert np.average(bins.means, weights=bins.counts) == pytest.approx(bins.mean)


def test_many_equal_values_share_a_bin():
    bins = quantile_bins(np.array([1.0] * 60 + [2.0] * 30 + [3.0] * 10), 5)
    assert bins.edges == (1.5,)
    assert bins.counts == (60, 40)
    assert quantile_bins(np.ones(100), 10) == Bins((), (100,), (1.0,), 1.0, 0.0)


def test_the_reference_counts_itself(folder, pipeline, baseline):
    photos = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]
    binning = Binning(baseline)
    counted = sum(binning.count(rows.values, rows.classes) for rows in collect(pipeline, photos, size=50))
    counts = dict(zip((labels for _, labels in binning.keys), counted.tolist()))
    for name, bins in baseline.signals.items():
        assert [counts[name, f"b{number}"] for number in range(len(bins.counts))] == list(bins.counts)
        if SIGNALS[name].family == "predictions":
            assert bins.counts == (PHOTOS // 10,) * 10
    classes = [f"c{index:04d}" for index in baseline.classes.top] + ["other"]
    # The reference counts classes on one half of the photos, the live side on all.
    assert sum(counts["class", name] for name in classes) == PHOTOS
    assert sum(baseline.classes.counts) == PHOTOS // 2


def test_thresholds_hold_what_they_promise(baseline):
    assert baseline.provenance.images == PHOTOS
    assert 0.5 * 0.01 <= baseline.shares["ood"] <= 0.02
    assert baseline.shares["atc"] == pytest.approx(baseline.accuracy.accuracy, abs=1e-9)
    assert baseline.shares["low_confidence"] == pytest.approx(1 - baseline.accuracy.accuracy, abs=1e-9)
    assert np.array(baseline.heatmap).sum() == pytest.approx(1, abs=1e-3)


def test_low_confidence_needs_labels_or_a_limit(baseline):
    unlabelled = replace(baseline, accuracy=None)
    assert "low_confidence" in baseline.possible_flags(None)
    assert "low_confidence" not in unlabelled.possible_flags(None)
    assert "low_confidence" in unlabelled.possible_flags(0.5)


def test_the_same_photos_give_the_same_archive(folder, with_baseline, tmp_path):
    """Again from the result: its baseline, which the archive without one got, is replaced by the same bytes."""
    options = ["--images", str(folder / "photos"), "--labels", str(folder / "truth.csv"), "--date", "2026-01-01"]
    assert main(["baseline", str(with_baseline), *options, "--out", str(tmp_path / "again.mar")]) == 0
    assert (tmp_path / "again.mar").read_bytes() == with_baseline.read_bytes()


@pytest.mark.usefixtures("one_process")
def test_the_archive_command_measures_a_baseline_in_one_go(folder, with_baseline, tmp_path):
    command = ["archive", str(folder / "pets.yaml"), "--baseline"]
    assert main([*command, str(folder / "photos"), "--out", str(tmp_path / "out")]) == 0
    one_go, two_steps = (read_baseline(content_of(path)) for path in (tmp_path / "out" / "pets.mar", with_baseline))
    assert one_go.signals == two_steps.signals
    assert one_go.accuracy is None
    few = write_photos(tmp_path / "few", 3)
    assert main([*command, str(few), "--out", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


def content_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("baseline.json")


def test_a_baseline_survives_writing(baseline):
    assert read_baseline(baseline.write()) == baseline


def test_a_wrong_baseline_is_named(baseline):
    changes = {
        "not of schema 1": lambda block: block.update(schema=9),
        "no signal 'smell'": lambda block: block["signals"].update(smell=block["signals"]["area"]),
        "edges for": lambda block: block["signals"]["area"]["counts"].pop(),
        "unusual is missing": lambda block: block.pop("unusual"),
    }
    for message, change in changes.items():
        block = json.loads(baseline.write())
        change(block)
        with pytest.raises(ConfigError, match=message):
            read_baseline(json.dumps(block).encode())


def test_a_baseline_belongs_to_its_weights_layer_and_method(pipeline, baseline, tmp_path):
    settings, map_filter = pipeline.settings, pipeline.monitor.map_filter
    path = tmp_path / "baseline.json"
    path.write_bytes(baseline.write())
    assert load_baseline(path, settings, map_filter) == baseline
    other = types.SimpleNamespace(layer="elsewhere", usual=map_filter.usual)
    with pytest.raises(ConfigError, match="made with layer"):
        load_baseline(path, settings, other)
    path.write_bytes(baseline.write() + b" ")
    with pytest.raises(ConfigError, match="baseline_sha256"):
        load_baseline(path, settings, map_filter)


def test_too_few_photos_are_refused(bare, tmp_path, capsys):
    few = write_photos(tmp_path / "few", 20)
    assert main(["baseline", str(bare), "--images", str(few), "--out", str(tmp_path / "x.mar")]) == 1
    assert "needs 500 pictures or more; 20" in capsys.readouterr().err
    assert not (tmp_path / "x.mar").exists()
    (tmp_path / "bad.csv").write_text("name,class\na,b\n")
    images = ["--images", str(few), "--labels", str(tmp_path / "bad.csv")]
    assert main(["baseline", str(bare), *images]) == 1
    assert "columns file and class_index" in capsys.readouterr().err


@pytest.mark.server  # 500 photos take their time
@pytest.mark.skipif(not os.environ.get("CAMSERVE_DATA"), reason="CAMSERVE_DATA names no folder of ImageNet photos")
def test_a_baseline_of_real_photos(imagenet, tmp_path, capsys):
    data = Path(os.environ["CAMSERVE_DATA"]) / "imagenet-val-500"
    out = tmp_path / "imagenet.mar"
    asked = ["--images", str(data / "images"), "--labels", str(data / "labels.csv"), "--out", str(out)]
    assert main(["baseline", str(imagenet), *asked]) == 0
    assert '"signals_off": ["class"]' in capsys.readouterr().out
    with open_archive(out) as pipeline:
        baseline = pipeline.monitor.baseline
        (answer,) = pipeline.answer([RawRequest(photo(1))])
    assert baseline.accuracy.accuracy == pytest.approx(0.742, abs=0.01)
    assert set(baseline.signals) == set(SIGNALS)
    assert {warning["code"] for warning in json.loads(answer.body)["warnings"]} >= {"LOW_CONFIDENCE"}


def test_a_row_is_unusual_by_its_energy_or_its_confidence(baseline):
    random = np.random.default_rng(4)
    scores = random.normal(scale=2.0, size=(400, 3)).astype(np.float32)
    odds = np.exp(scores)
    predictions = Predictions(scores, odds / odds.sum(axis=1, keepdims=True))
    best = predictions.classes.tolist()
    found = np.array(["ood" in baseline.flags(predictions, row, index, None) for row, index in enumerate(best)])
    energy, confidence = np.log(odds.sum(axis=1)), (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
    limits = baseline.unusual
    clear = np.abs(energy - limits.energy) > 1e-4
    by_energy, by_confidence = energy < limits.energy, confidence < limits.confidence
    assert (found == (by_energy | by_confidence))[clear].all()
    assert (by_energy & ~by_confidence & (scores.max(axis=1) < limits.energy)).any()
    assert (~by_energy & (scores.max(axis=1) < limits.energy)).any()


def test_inspect_and_settings_know_the_baseline(with_baseline):
    contents = read_contents(with_baseline)
    assert contents.settings.monitoring.baseline == "baseline.json"
    assert contents.sizes["baseline.json"] < 40_000


def test_a_value_of_the_audit_log_falls_into_the_bin_that_the_server_counted_it_in():
    values = np.log(np.repeat([3 / 4, 1, 341 / 256, 4 / 3, 3 / 2], [20, 10, 25, 25, 20]))
    edges = quantile_bins(values, 5).edges
    logged = np.array([float(f"{value:.6g}") for value in values])  # as the log writes it
    assert len(edges) == 4
    assert (np.searchsorted(edges, logged, side="right") == np.searchsorted(edges, values, side="right")).all()


def test_a_reference_needs_pictures():
    with pytest.raises(ConfigError, match="500 pictures"):
        summarise_reference(reference_of([]), {}, Provenance("", "", "", "", "", "", 0), None)
    empty = random_rows(np.zeros(0, bool))
    with pytest.raises(ConfigError, match="0 could be read"):
        summarise_reference(reference_of([empty]), {}, Provenance("", "", "", "", "", "", 0), None)


def test_a_blank_map_costs_the_least_baseline_no_signal():
    rows = random_rows(np.arange(LEAST_IMAGES) == 7)
    made = summarise_reference(reference_of([rows]), {}, Provenance("", "", "", "", "", "", LEAST_IMAGES), None)
    assert set(made.signals) == set(SIGNALS)
    assert sum(made.signals["area"].counts) == LEAST_IMAGES - 1
    assert made.shares["blank"] == 1 / LEAST_IMAGES


def test_a_signal_that_is_off_is_named(baseline):
    assert baseline.signals_off == []
    rare = replace(baseline, classes=class_bins(np.arange(PHOTOS)))
    assert rare.signals_off == ["class"]
    blank = replace(rare, signals={name: bins for name, bins in baseline.signals.items() if name != "area"})
    assert blank.signals_off == ["area", "class"]
    quantities = {name: baseline.signals[name] for name in OF_QUANTITIES if name != "border"}
    assert replace(rare, signals=quantities, unusual=None).signals_off == ["border"]


def test_the_command_and_the_card_name_a_signal_that_is_off(folder, bare, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("camserve.build.baseline.measure.FEWEST_OF_A_CLASS", PHOTOS)  # as if no class came often
    out = tmp_path / "rare.mar"
    assert main(["baseline", str(bare), "--images", str(folder / "photos"), "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["signals_off"] == ["class"]
    assert "the signal class is off: no class was predicted 5 times among every second photo" in printed.err
    with open_archive(out) as pipeline:
        seen = describe_model(pipeline.model, pipeline.heads, pipeline.settings, baseline=pipeline.monitor.baseline)
    assert seen["baseline"] == {"images": PHOTOS, "date": date.today().isoformat(), "signals_off": ["class"]}


def test_classes_that_were_frequent_by_luck_do_not_drift_when_they_are_counted_again():
    """Uniform classes: chosen and counted on the same pictures, the top ones would stand out in every window."""
    generator = np.random.default_rng(4)
    bins = class_bins(generator.integers(0, 50, 2000))
    assert len(bins.top) == TOP_CLASSES
    share = sum(bins.counts[:-1]) / sum(bins.counts)
    assert share == pytest.approx(TOP_CLASSES / 50, abs=0.04)
    assert class_bins(generator.integers(0, 1000, 500)).top == ()
