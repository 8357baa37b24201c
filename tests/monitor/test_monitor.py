"""What is counted is what was seen, and counting can never cost an answer."""

import base64
import csv
import hashlib
import json
import os
import re
import stat
import time
import types
import warnings
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from camserve.build.archive import build_archive
from camserve.build.baseline import (
    LEAST_IMAGES,
    TOP_CLASSES,
    Collector,
    class_bins,
    make_baseline,
    quantile_bins,
)
from camserve.build.recipe import load_recipe
from camserve.build.unpack import open_archive, read_contents
from camserve.cli import main
from camserve.drift.audit_log import read_audit
from camserve.drift.records import read_truth, score, wilson
from camserve.errors import BadImage, ConfigError
from camserve.intake.containers import MAGIC, sniff
from camserve.monitor import signals
from camserve.monitor.audit import Audit, sampled
from camserve.monitor.baseline import Bins, Provenance, load_baseline, read_baseline
from camserve.monitor.counters import (
    COUNTERS,
    GAUGES,
    KEPT,
    MAX_SERIES,
    OUTCOMES,
    PICTURE_FORMATS,
    QUANTILES,
    RECENT,
    STAGES,
    Binning,
    Counters,
)
from camserve.monitor.live import live_recorders
from camserve.monitor.measure import NAMES, MeasuredRows, PixelRows, SignalInputs, join, sample_pixels
from camserve.monitor.recorder import Finished
from camserve.monitor.signals import SIGNALS, Inputs, Maps, Predictions
from camserve.serving.engines.metrics import TorchServeSink
from camserve.settings import AuditSpec, Monitoring
from camserve.strict import read
from camserve.values import TRAITS, Explanation, Prediction, RawRequest, Target
from model_file import NET, quiet
from synthetic_photos import photo, write_photos

PHOTOS = 500
GEOMETRY = "preprocess: {resize: 64, crop: 64}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monitor")
    (folder / "net.py").write_text(NET)
    scope = {}
    exec(NET, scope)
    torch.manual_seed(3)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    (folder / "labels.txt").write_text("cat\ndog\nbird\n")
    (folder / "net.yaml").write_text(
        f"name: pets\nfactory: Net\nmodel_file: net.py\nweights: net.pt\nlabels: labels.txt\n{GEOMETRY}"
    )
    write_photos(folder / "photos", PHOTOS)
    with (folder / "truth.csv").open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["file", "class_index"])
        table.writerows([f"{number:04d}.png", number % 2] for number in range(PHOTOS))
    return folder


@pytest.fixture(scope="module")
def bare(folder):
    """The archive without a baseline."""
    return build_archive(load_recipe(folder / "net.yaml"), folder / "bare", quiet)


@pytest.fixture(scope="module")
def watched(folder, bare):
    """The same archive with a baseline over photos 0 to 499, made by the command."""
    out = folder / "watched" / "pets.mar"
    asked = ["--images", str(folder / "photos"), "--labels", str(folder / "truth.csv"), "--date", "2026-01-01"]
    assert main(["baseline", str(bare), *asked, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def baseline(watched):
    with open_archive(watched) as pipeline:
        return pipeline.monitor.baseline


@pytest.fixture(scope="module")
def seen(watched):
    """The signals of 120 other photos, in batches of 8."""
    return observe(watched, [photo(2000 + number) for number in range(120)])


def observe(archive, bodies, batch=8):
    with open_archive(archive) as pipeline:
        collector = Collector()
        pipeline.monitor.report_to(collector)
        for start in range(0, len(bodies), batch):
            rows = [
                RawRequest(body, request_id=f"r{start + n}") for n, body in enumerate(bodies[start : start + batch])
            ]
            assert {answer.status for answer in pipeline.answer(rows)} == {200}
        assert not collector.failures
        return collector.batches


class Sink:
    """A server's metrics, as a table."""

    def __init__(self):
        self.counts, self.gauges = {}, {}

    def count(self, metric, labels, amount):
        assert amount >= 0
        self.counts[metric, tuple(labels)] = self.counts.get((metric, tuple(labels)), 0) + amount

    def gauge(self, metric, labels, value):
        self.gauges[metric, tuple(labels)] = value


@pytest.fixture
def counting():
    """Start counters and stop their threads in the end."""
    started = []

    def start(sink, baseline=None):
        started.append(Counters(sink, baseline))
        return started[-1]

    yield start
    for each in started:
        each.close()


# Signals, by hand


def measure(name, view):
    return float(SIGNALS[name].measure(view)[0])


def test_signals_of_a_map_of_two_by_two():
    view = Maps(np.array([[[3.0, 1.0], [0.0, 0.0]]], np.float32), np.array([0.2]))
    assert measure("log_mass", view) == pytest.approx(np.log(4))
    assert measure("peak", view) == 3
    assert measure("area", view) == pytest.approx(1 / (4 * (0.75**2 + 0.25**2)))
    assert measure("centroid_x", view) == pytest.approx(0.75 * 0.25 + 0.25 * 0.75)
    assert measure("centroid_y", view) == pytest.approx(0.25)
    # Across: .75 * .25^2 + .25 * .75^2 - .375^2 between the cells, .5^2 / 12 within one. Down: within alone.
    assert measure("elongation", view) == pytest.approx(np.log((0.046875 + 1 / 48) / (1 / 48)) / 2)
    assert measure("border", view) == pytest.approx(1)
    assert measure("border_mass", view) == pytest.approx(np.log(4 * 1.001))
    assert measure("negative", view) == 0.2


def test_the_border_of_a_map_is_its_outer_ring():
    raw = np.zeros((1, 4, 5), np.float32)
    raw[0, 1, 2], raw[0, 3, 2], raw[0, 2, 4] = 6, 1, 3
    assert measure("border", Maps(raw, np.zeros(1))) == pytest.approx(0.4)
    assert measure("border_mass", Maps(raw, np.zeros(1))) == pytest.approx(np.log(4), abs=0.003)
    assert measure("centroid_x", Maps(raw, np.zeros(1))) == pytest.approx(0.7 * 0.5 + 0.3 * 0.9)


def test_a_map_on_its_side_is_as_much_higher_as_it_was_wide():
    raw = np.random.default_rng(0).uniform(size=(1, 7, 7)).astype(np.float32) ** 4
    wide = np.zeros((1, 7, 7), np.float32)
    wide[0, 3] = 1
    for each in (raw, wide):
        turned = Maps(each.transpose(0, 2, 1).copy(), np.zeros(1))
        assert measure("elongation", turned) == pytest.approx(-measure("elongation", Maps(each, np.zeros(1))))
    assert measure("elongation", Maps(wide, np.zeros(1))) == pytest.approx(
        np.log(7)
    )  # evenly over all columns of a row


def test_signals_of_scores():
    scores = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32)) + 3
    view = Predictions(scores, np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    assert measure("confidence", view) == pytest.approx(0.5)
    assert measure("margin", view) == pytest.approx(0.25)
    assert measure("entropy", view) == pytest.approx(1.75 / 2)
    assert measure("energy", view) == pytest.approx(3)
    assert view.classes.tolist() == [0]


def test_signals_of_a_picture():
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    pixels[0, :, ::2, 0] = 255  # red and black columns
    view = Inputs(pixels, np.array([[200.0, 100.0]]))
    assert measure("brightness", view) == pytest.approx(0.299 / 2)
    assert measure("contrast", view) == pytest.approx(0.299 / 2, rel=1e-5)
    assert measure("sharpness", view) == pytest.approx(np.log((2 * 0.299) ** 2), rel=1e-4)
    assert measure("saturation", view) == pytest.approx(0.5)
    assert measure("red_minus_blue", view) == pytest.approx(0.5)
    assert measure("aspect", view) == pytest.approx(np.log(2))
    assert measure("log_pixels", view) == pytest.approx(np.log10(20000))


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_of_a_batch_is_that_of_its_rows_alone_and_keeps_its_bounds(watched, name):
    bodies = [photo(3000 + number) for number in range(16)]
    together = np.concatenate([each.material.column(name) for each in observe(watched, bodies)])
    singly = [each.material for each in observe(watched, bodies, batch=1)]
    alone = np.concatenate([each.column(name) for each in singly])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(join(singly).column(name), alone, rtol=1e-6, atol=1e-9)
    known = together[np.isfinite(together)]
    assert len(known) >= 5
    if SIGNALS[name].bounds:
        low, high = SIGNALS[name].bounds
        assert known.min() >= low - 1e-6
        assert known.max() <= high + 1e-6


def test_one_class_has_no_entropy_and_one_cell_no_shape():
    assert measure("entropy", Predictions(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))) == pytest.approx(0)
    assert measure("margin", Predictions(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))) == 1
    assert measure("elongation", Maps(np.ones((1, 1, 1), np.float32), np.zeros(1))) == pytest.approx(0, abs=1e-9)


# The baseline


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


def test_the_reference_counts_itself(folder, watched, baseline):
    photos = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]
    binning = Binning(baseline)
    counted = sum(binning.count(each.values, each.classes) for each in observe(watched, photos))
    told = dict(zip((labels for _, labels in binning.keys), counted.tolist()))
    for name, bins in baseline.signals.items():
        assert [told[name, f"b{number}"] for number in range(len(bins.counts))] == list(bins.counts)
        if SIGNALS[name].family == "predictions":
            assert bins.counts == (PHOTOS // 10,) * 10
    classes = [f"c{index:04d}" for index in baseline.classes.top] + ["other"]
    # The reference counts classes on one half of the photos, the live side on all.
    assert sum(told["class", each] for each in classes) == PHOTOS
    assert sum(baseline.classes.counts) == PHOTOS // 2


def test_thresholds_hold_what_they_promise(baseline):
    assert baseline.provenance.images == PHOTOS
    assert 0.5 * 0.01 <= baseline.shares["ood"] <= 0.02
    assert baseline.shares["atc"] == pytest.approx(baseline.accuracy.accuracy, abs=1e-9)
    assert baseline.shares["low_confidence"] == pytest.approx(1 - baseline.accuracy.accuracy, abs=1e-9)
    assert np.array(baseline.heatmap).sum() == pytest.approx(1, abs=1e-3)


def test_the_same_photos_give_the_same_archive(folder, bare, watched, tmp_path):
    asked = ["--images", str(folder / "photos"), "--labels", str(folder / "truth.csv"), "--date", "2026-01-01"]
    # Again from the result: an old baseline is replaced, and nothing else changes.
    for number, source in enumerate((bare, watched)):
        assert main(["baseline", str(source), *asked, "--out", str(tmp_path / f"{number}.mar")]) == 0
        assert (tmp_path / f"{number}.mar").read_bytes() == watched.read_bytes()


def test_the_archive_command_measures_a_baseline_in_one_go(folder, watched, tmp_path):
    asked = ["archive", str(folder / "net.yaml"), "--baseline", str(folder / "photos"), "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    one_go, two_steps = (read_baseline(content_of(path)) for path in (tmp_path / "out" / "pets.mar", watched))
    assert one_go.signals == two_steps.signals
    assert one_go.accuracy is None
    few = write_photos(tmp_path / "few", 3)
    assert main([*asked[:3], str(few), "--out", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


def content_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("baseline.json")


def test_a_baseline_survives_writing(baseline):
    assert read_baseline(baseline.write()) == baseline


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.update(schema=9), "not of schema 1"),
        (lambda told: told["signals"].update(smell=told["signals"]["area"]), "no signal 'smell'"),
        (lambda told: told["signals"]["area"]["counts"].pop(), "edges for"),
        (lambda told: told.pop("unusual"), "unusual is missing"),
    ],
)
def test_a_wrong_baseline_is_named(baseline, change, message):
    told = json.loads(baseline.write())
    change(told)
    with pytest.raises(ConfigError, match=message):
        read_baseline(json.dumps(told).encode())


def test_a_baseline_belongs_to_its_weights_layer_and_method(watched, baseline, tmp_path):
    with open_archive(watched) as pipeline:
        settings, watch = pipeline.settings, pipeline.monitor.watch
    path = tmp_path / "baseline.json"
    path.write_bytes(baseline.write())
    assert load_baseline(path, settings, watch) == baseline
    other = types.SimpleNamespace(layer="elsewhere", usual=watch.usual)
    with pytest.raises(ConfigError, match="made with layer"):
        load_baseline(path, settings, other)
    path.write_bytes(baseline.write() + b" ")
    with pytest.raises(ConfigError, match="baseline_sha256"):
        load_baseline(path, settings, watch)


def test_too_few_photos_are_refused(folder, bare, tmp_path, capsys):
    few = write_photos(tmp_path / "few", 20)
    assert main(["baseline", str(bare), "--images", str(few), "--out", str(tmp_path / "x.mar")]) == 1
    assert "needs 500 pictures or more; 20" in capsys.readouterr().err
    assert not (tmp_path / "x.mar").exists()
    (tmp_path / "bad.csv").write_text("name,class\na,b\n")
    images = ["--images", str(folder / "photos"), "--labels", str(tmp_path / "bad.csv")]
    assert main(["baseline", str(bare), *images]) == 1
    assert "columns file and class_index" in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("CAMSERVE_DATA"), reason="CAMSERVE_DATA names no folder of ImageNet photos")
def test_a_baseline_of_real_photos(imagenet, tmp_path):
    data = Path(os.environ["CAMSERVE_DATA"]) / "imagenet-val-500"
    out = tmp_path / "imagenet.mar"
    asked = ["--images", str(data / "images"), "--labels", str(data / "labels.csv"), "--out", str(out)]
    assert main(["baseline", str(imagenet), *asked]) == 0
    with open_archive(out) as pipeline:
        baseline = pipeline.monitor.baseline
        (answer,) = pipeline.answer([RawRequest(photo(1))])
    assert baseline.accuracy.accuracy == pytest.approx(0.742, abs=0.01)
    assert set(baseline.signals) == set(SIGNALS)
    assert {each["code"] for each in json.loads(answer.body)["warnings"]} >= {"LOW_CONFIDENCE"}


# Counting


def test_what_is_put_aside_is_a_grid_of_the_pixels():
    random = np.random.default_rng(1)
    for size in ((224, 224), (64, 64), (120, 300), (20, 30)):
        pixels = [random.integers(0, 256, (*size, 3), np.uint8) for _ in range(2)]
        lines = sample_pixels([types.SimpleNamespace(pixels=each) for each in pixels])
        step = max(1, min(size) // 56)
        assert lines.step == step
        expected = [each[step // 2 :: step, step // 2 :: step] for each in pixels]
        assert np.array_equal(lines.thumbnails, expected)
        assert min(lines.thumbnails.shape[1:3]) <= max(56, 2 * min(size) / step)


def finished(measured, outcomes=()):
    return Finished((), outcomes, measured, {"forward": 1.5}, 20.0)


def totals(counting, batches, baseline):
    sink = Sink()
    counters = counting(sink, baseline)
    for each in batches:
        counters.record(finished([each]))
    counters.flush()
    return {key: amount for key, amount in sink.counts.items() if key[0] in ("cam_bin_total", "cam_flags_total")}


@pytest.mark.parametrize("with_baseline", [True, False])
def test_histograms_of_two_halves_add_up_exactly(counting, seen, baseline, with_baseline):
    reference = baseline if with_baseline else None
    whole, first, second = (totals(counting, part, reference) for part in (seen, seen[:7], seen[7:]))
    assert whole == {key: first[key] + second[key] for key in whole}
    rows = sum(len(each.requests) for each in seen)
    assert sum(each for (_, labels), each in whole.items() if labels[0] == "confidence") == rows
    maps = sum(len(each.requests) - sum(each.material.blank) for each in seen)
    assert sum(each for (_, labels), each in whole.items() if labels[0] == "area") == maps
    assert whole["cam_flags_total", ("blank",)] == rows - maps


def test_a_value_on_an_edge_belongs_to_the_bin_above(baseline):
    binning = Binning(baseline)
    values = np.full((3, len(NAMES)), np.nan)
    edges = baseline.signals["energy"].edges
    values[:, NAMES.index("energy")] = [edges[0], np.nextafter(edges[0], -np.inf), edges[-1] + 1e9]
    counted = binning.count(values, np.array([0, 1, 0]))
    told = {labels: int(each) for (_, labels), each in zip(binning.keys, counted) if each and labels[0] == "energy"}
    assert told == {("energy", "b0"): 1, ("energy", "b1"): 1, ("energy", "b9"): 1}
    assert counted.sum() == 6  # three energies, three classes, and no row that has no value


def test_every_series_begins_at_zero_and_they_are_few(counting, baseline):
    sink = Sink()
    counting(sink, baseline)
    assert set(sink.counts.values()) == {0}
    assert {metric for metric, _ in sink.counts} == set(COUNTERS)
    for (metric, labels), _ in [*sink.counts.items(), *sink.gauges.items()]:
        assert len(labels) == len({**COUNTERS, **GAUGES}[metric])
    full = sum(signal.bins for signal in SIGNALS.values()) + TOP_CLASSES + 1  # all bins distinct, and other classes
    fixed = sum(1 for metric, _ in sink.counts if metric != "cam_bin_total")
    assert full + fixed <= MAX_SERIES
    assert sink.gauges["cam_ref_value", ("images",)] == PHOTOS
    assert sum(each for (metric, labels), each in sink.gauges.items() if labels[:1] == ("class",)) == PHOTOS // 2


def test_only_what_was_added_is_flushed(counting, seen, baseline):
    sink = Sink()
    counters = counting(sink, baseline)
    counters.record(finished(seen[:1]))
    counters.flush()
    told = dict(sink.counts)
    counters.flush()
    assert sink.counts == told
    assert told["cam_stage_microseconds_total", ("forward",)] == 1500
    assert told["cam_batches_total", ()] == 1


def test_quantiles_are_those_of_the_last_batches(counting, seen, baseline):
    sink = Sink()
    counters = counting(sink, baseline)
    assert {sink.gauges["cam_stage_milliseconds", (stage, name)] for stage in STAGES for name in QUANTILES} == {0.0}
    batch = finished(seen[:1])
    for each in [1e6] * 10 + list(range(1, RECENT + 1)):
        counters.record(replace(batch, stages={"forward": float(each)}))
    counters.flush()
    told = {name: sink.gauges["cam_stage_milliseconds", ("forward", name)] for name in QUANTILES}
    assert told == {"p50": 256.0, "p90": 461.0, "p99": 507.0}
    assert sink.gauges["cam_stage_milliseconds", ("decode", "p99")] == 0.0


def test_outcomes_are_counted_by_code(watched, counting):
    sink = Sink()
    with open_archive(watched) as pipeline:
        counters = counting(sink, pipeline.monitor.baseline)
        pipeline.monitor.report_to(counters)
        rows = [RawRequest(photo(1)), RawRequest(b"x"), RawRequest(photo(2), {"explain": "false"}), RawRequest(None)]
        pipeline.answer([*rows, RawRequest(photo(3), {"target": "top:2", "explain": "probability>0.99"})])
        pipeline.monitor.refused(BadImage("cut"))
    counters.flush()
    told = {
        labels[0]: each for (metric, labels), each in sink.counts.items() if metric == "cam_requests_total" and each
    }
    assert told == {"ok": 3, "unsupported_format": 1, "missing_image": 1, "bad_image": 1}
    statuses = {labels[0]: each for (name, labels), each in sink.counts.items() if name == "cam_explanations_total"}
    assert sum(statuses.values()) == 3
    assert statuses["skipped"] == 2
    latency = [each for (name, _), each in sink.counts.items() if name == "cam_latency_milliseconds_total"]
    assert latency == sorted(latency)
    assert latency[-1] == 5


def test_pictures_are_counted_by_format(watched, counting):
    sink = Sink()
    with open_archive(watched) as pipeline:
        counters = counting(sink, pipeline.monitor.baseline)
        pipeline.monitor.report_to(counters)
        bodies = [*(encoded(kind) for kind in PICTURE_FORMATS), encoded("PNG"), photo(1)[:60], b"no picture"]
        pipeline.answer([RawRequest(body) for body in bodies])
    counters.flush()
    told = {labels: each for (metric, labels), each in sink.counts.items() if metric == "cam_inputs_total"}
    assert told == {**dict.fromkeys(((kind,) for kind in PICTURE_FORMATS), 1), ("PNG",): 2}


def test_pictures_are_counted_by_what_became_of_them(watched, counting):
    sink = Sink()
    upright, turned = Image.Exif(), Image.Exif()
    upright[0x0112], turned[0x0112] = 1, 6
    with open_archive(watched) as pipeline:
        counters = counting(sink, pipeline.monitor.baseline)
        pipeline.monitor.report_to(counters)
        bodies = [encoded("PNG", mode) for mode in ("RGB", "L", "L", "I;16", "RGBA", "LA")]
        bodies += [encoded("JPEG", "CMYK"), encoded("JPEG", exif=turned), encoded("JPEG", exif=upright)]
        bodies += [encoded("GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))])]
        answers = pipeline.answer([RawRequest(body) for body in bodies])
    assert {each.status for each in answers} == {200}
    counters.flush()
    told = {labels[0]: each for (metric, labels), each in sink.counts.items() if metric == "cam_input_traits_total"}
    assert told == {"grey": 4, "deep": 1, "cmyk": 1, "flattened": 2, "rotated": 1, "animated": 1}
    assert set(told) == set(TRAITS)


def encoded(kind, mode="RGB", **options):
    buffer = BytesIO()
    picture = Image.open(BytesIO(photo(1)))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257)
    picture.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_format_that_is_decoded_has_a_series():
    assert {sniff(encoded(kind)) for kind in PICTURE_FORMATS} == {*(kind for kind, _ in MAGIC), "WEBP"}


def test_every_refusal_has_a_series():
    assert set(OUTCOMES) >= {"ok", "bad_image", "bad_option", "model_failed", "out_of_memory"}


def test_only_maps_that_nobody_wished_otherwise_are_compared(watched):
    with open_archive(watched) as pipeline:
        collector = Collector()
        pipeline.monitor.report_to(collector)
        body = next(body for body in map(photo, range(50)) if not observe(watched, [body])[0].material.blank[0])
        wishes = [{}, {"evidence": "signed"}, {"evidence": "against"}, {"contrast": "next"}, {"explain": "false"}]
        for wish in [*wishes, {"target": "bird"}, {"target": "bird,predicted"}]:
            pipeline.answer([RawRequest(body, wish)])
    compared = [each.material.maps is not None for each in collector.batches]
    assert compared == [True, True, False, False, False, False, True]
    np.testing.assert_allclose(collector.batches[0].values, collector.batches[1].values, rtol=1e-5)


# Nothing here can fail a request


class Broken:
    """A recorder that fails at everything."""

    def record(self, finished):
        raise RuntimeError("record")

    def refused(self, error):
        raise RuntimeError("refused")

    def failed(self):
        raise RuntimeError("failed")


def test_a_recorder_that_raises_fails_no_request_and_is_counted(watched, counting, caplog):
    sink = Sink()
    with open_archive(watched) as pipeline:
        alone = [answer.body for answer in pipeline.answer([RawRequest(photo(1)), RawRequest(b"x")])]
        counters = counting(sink, pipeline.monitor.baseline)
        pipeline.monitor.report_to(Broken(), counters)
        for _ in range(3):
            assert [each.body for each in pipeline.answer([RawRequest(photo(1)), RawRequest(b"x")])] == alone
        pipeline.monitor.refused(BadImage("cut"))
    counters.flush()
    assert sink.counts["cam_requests_total", ("ok",)] == 3
    assert sink.counts["cam_monitor_failures_total", ()] == 4
    assert len([each for each in caplog.records if "monitoring failed" in each.message]) == 1


def test_a_signal_that_raises_fails_no_request_and_is_counted(watched, counting, monkeypatch):
    broken = signals.Signal("inputs", lambda view: 1 / 0, None, "", "", "")
    monkeypatch.setitem(SIGNALS, "brightness", broken)
    sink = Sink()
    with open_archive(watched) as pipeline:
        counters = counting(sink, pipeline.monitor.baseline)
        pipeline.monitor.report_to(counters)
        answers = [pipeline.answer([RawRequest(photo(1))] * 8) for _ in range(KEPT // 8)]
    assert {each.status for batch in answers for each in batch} == {200}
    counters.flush()
    assert sink.counts["cam_monitor_failures_total", ()] == 1
    assert sink.counts["cam_requests_total", ("ok",)] == KEPT


def test_a_sink_that_raises_stops_nothing(counting, seen, baseline):
    class Dead(Sink):
        alive = True

        def count(self, metric, labels, amount):
            if not self.alive:
                raise OSError("the pipe is gone")
            super().count(metric, labels, amount)

    sink = Dead()
    counters = counting(sink, baseline)
    sink.alive = False
    counters.record(finished(seen[:1]))
    with pytest.raises(OSError):
        counters.flush()
    sink.alive = True
    counters.record(finished(seen[:1]))
    counters.flush()
    assert sink.counts["cam_batches_total", ()] == 1


# Warnings in the answer


def codes(pipeline, body):
    (answer,) = pipeline.answer([RawRequest(body)])
    return {each["code"] for each in json.loads(answer.body)["warnings"]}


def test_unusual_and_doubtful_pictures_are_marked_where_there_is_a_baseline(watched, bare, baseline):
    bodies = [photo(number, dark=0.05) for number in range(3)] + [photo(number) for number in range(60)]
    with open_archive(bare) as pipeline:
        assert not any(codes(pipeline, body) & {"OUT_OF_DISTRIBUTION", "LOW_CONFIDENCE"} for body in bodies)
    with open_archive(watched) as pipeline:
        told = [codes(pipeline, body) for body in bodies]
    (measured,) = observe(watched, bodies, batch=len(bodies))[:1]
    flags = [
        baseline.flags(measured.material.predictions, row, best, None) for row, best in enumerate(measured.classes)
    ]
    for row in range(len(measured.requests)):
        assert ("OUT_OF_DISTRIBUTION" in told[row]) == ("ood" in flags[row])
        assert ("LOW_CONFIDENCE" in told[row]) == ("low_confidence" in flags[row])
    assert any("ood" in each for each in flags)
    assert any("low_confidence" in each for each in flags)
    assert not all("ood" in each for each in flags)


def test_a_row_is_unusual_by_its_energy_or_its_confidence(baseline):
    random = np.random.default_rng(4)
    scores = random.normal(scale=2.0, size=(400, 3)).astype(np.float32)
    odds = np.exp(scores)
    predictions = Predictions(scores, odds / odds.sum(axis=1, keepdims=True))
    best = predictions.classes.tolist()
    found = np.array(["ood" in baseline.flags(predictions, row, each, None) for row, each in enumerate(best)])
    energy, confidence = np.log(odds.sum(axis=1)), (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
    limits = baseline.unusual
    clear = np.abs(energy - limits.energy) > 1e-4
    by_energy, by_confidence = energy < limits.energy, confidence < limits.confidence
    assert (found == (by_energy | by_confidence))[clear].all()
    assert (by_energy & ~by_confidence & (scores.max(axis=1) < limits.energy)).any()
    assert (~by_energy & (scores.max(axis=1) < limits.energy)).any()


# TorchServe's sink


SHIPPED = Path(__file__).parents[2] / "config" / "metrics.yaml"
# What TorchServe's frontend makes of a line (frontend/server, metrics/Metric.java).
LINE = re.compile(
    r"\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)(,(.*))?"
)


@pytest.fixture
def metrics(caplog):
    """TorchServe's own metric cache for some metrics.yaml, and what it prints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package leaves a file open when it is imported
        from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    def load(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it leaves this file open, too
            cache = MetricsCacheYamlImpl(str(path))
        cache.initialize_cache()
        caplog.set_level("INFO", "ts.metrics.caching_metric")
        caplog.clear()
        return cache

    return load


def test_every_line_survives_torchserves_parser(metrics, caplog, baseline, counting):
    counting(TorchServeSink(metrics(SHIPPED), "my model", "1.0, beta:2|x"), baseline)
    lines = [each.message for each in caplog.records]
    assert len(lines) >= 500
    for line in lines:
        name, _, value, labels, *_ = LINE.fullmatch(line[len("[METRICS]") :]).groups()
        own = {**COUNTERS, **GAUGES}[name]
        pairs = [pair.split(":") for pair in labels.split(",")]
        assert [pair[0] for pair in pairs] == [*own, "ModelVersion", "ModelName", "Level"]
        assert [pair[1] for pair in pairs[-3:]] == ["1.0__beta_2_x", "my_model", "Model"]
        assert float(value) == float(value)


def test_a_server_that_does_not_know_our_metrics_is_told_once(metrics, caplog, tmp_path):
    block = yaml.safe_load(SHIPPED.read_text())
    counters = block["model_metrics"]["counter"]
    block["model_metrics"]["counter"] = [each for each in counters if each["name"] != "cam_bin_total"]
    counters[1]["dimensions"].reverse()  # cam_requests_total, whose values would be mixed up
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump(block))
    sink = TorchServeSink(metrics(tmp_path / "metrics.yaml"), "m", "1.0")
    sink.count("cam_bin_total", ("area", "b0"), 1)
    sink.count("cam_requests_total", ("ok",), 1)
    sink.count("cam_batches_total", (), 1)
    warning, line = (each.message for each in caplog.records)
    assert "does not declare cam_bin_total, cam_requests_total" in warning
    assert line.startswith("[METRICS]cam_batches_total.Count:1|#ModelVersion:1.0,ModelName:m,Level:Model|#type:COUNTER")


# The audit log


@pytest.fixture
def audit(tmp_path):
    """Start an audit log with some settings; the caller closes it."""
    started = []

    def start(**changes):
        spec = AuditSpec(**{"directory": str(tmp_path / "audit"), "rate": 1.0, "min_free_bytes": 0, **changes})
        dropped = []
        model = {"name": "pets", "version": "1.0", "weights": "sha256:0"}
        started.append(Audit(spec, model, lambda: dropped.append(1)))
        return started[-1], Path(spec.directory), dropped

    yield start
    for each in started:
        each.close()


def ask(archive, recorder, bodies, options=None):
    with open_archive(archive) as pipeline:
        pipeline.monitor.report_to(recorder)
        for number, body in enumerate(bodies):
            pipeline.answer([RawRequest(body, options or {}, {"authorization": "secret"}, request_id=f"id-{number}")])
    recorder.close()


def written(folder):
    return [record.told for record in read_audit(folder.glob("audit-*.jsonl"))]


def test_the_report_names_what_changed_after_a_clean_period(watched, audit, tmp_path, capsys):
    recorder, folder, dropped = audit()
    ask(watched, recorder, [photo(5000 + number, 1.0 if number < 120 else 0.5) for number in range(240)])
    assert not dropped
    files = [str(path) for path in folder.iterdir()]
    asked = ["report", *files, "--baseline", str(watched), "--out", str(tmp_path / "report.html"), "--clean-until"]
    assert main([*asked, written(folder)[120]["time"]]) == 0
    section = (tmp_path / "report.html").read_text().partition("After the clean period")[2].partition("<h2>")[0]
    changed = re.findall(r"<tr class='alarm'><td>(\w+)<", section)
    assert "brightness" in changed
    assert not {"aspect", "log_pixels"} & set(changed)
    assert "A classifier tells the periods apart" in section
    (tmp_path / "report.html").unlink()
    assert main([*asked, "2020-01-01"]) == 1
    assert "each period needs 100 sampled requests" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_record_says_what_was_asked_and_never_shows_it(watched, audit):
    recorder, folder, dropped = audit()
    body = photo(1)
    ask(watched, recorder, [body, b"no picture"])
    good, bad = written(folder)
    assert good["request_id"] == "id-0"
    assert (good["outcome"], good["reason"], good["model"]["name"]) == ("ok", "sampled", "pets")
    assert good["input"]["format"] == "PNG"
    assert good["input"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert {"confidence", "energy", "brightness", "log_pixels"} <= set(good["signals"]) <= set(SIGNALS)
    assert good["predictions"][0]["label"] in ("cat", "dog", "bird")
    assert {"decode", "forward", "all"} <= set(good["timing_ms"])
    assert bad["outcome"] == "unsupported_format"
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "secret" not in text
    assert "thumbnail" not in text
    assert not dropped
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_pictures_are_recorded_only_on_request(watched, audit):
    recorder, folder, _ = audit(pictures=True, envelope="cloudevents")
    body = next(body for body in map(photo, range(50)) if not observe(watched, [body])[0].material.blank[0])
    ask(watched, recorder, [body])
    (path,) = folder.iterdir()
    event = json.loads(path.read_text())
    assert (event["specversion"], event["source"]) == ("1.0", "/camserve/pets/1.0")
    assert base64.b64decode(event["data"]["thumbnail"]).startswith(b"\xff\xd8")
    levels = base64.b64decode(event["data"]["map"]["levels"])
    assert len(levels) == np.prod(event["data"]["map"]["shape"])
    assert max(levels) == 15


def test_the_sample_is_a_share_and_the_same_everywhere():
    ids = [f"request-{number}" for number in range(20_000)]
    drawn = {each for each in ids if sampled(each, 0.1)}
    assert len(drawn) == pytest.approx(2000, abs=200)
    assert drawn >= {each for each in ids if sampled(each, 0.01)}
    assert not any(sampled(each, 0.0) for each in ids)
    assert all(sampled(each, 1.0) for each in ids)


def test_telling_requests_are_kept_beside_the_sample_up_to_a_rate(watched, audit):
    recorder, folder, dropped = audit(rate=0.0, per_minute=3)
    ask(watched, recorder, [b"no picture"] * 10 + [photo(number) for number in range(20)])
    reasons = [record["reason"] for record in written(folder)]
    # A minute may end while this runs, and each kind then gets its rate again.
    assert 3 <= reasons.count("error") <= 6
    assert set(reasons) <= {"error", "blank", "ood", "low_margin"}
    assert len(reasons) <= 24
    assert not dropped


def test_files_rotate_below_their_cap(watched, audit):
    recorder, folder, dropped = audit(max_bytes=40_000)
    ask(watched, recorder, [photo(1)] * 60)
    files = list(folder.iterdir())
    assert len(files) >= 2
    assert sum(path.stat().st_size for path in files) <= 40_000
    assert not dropped
    assert written(folder)[-1]["request_id"] == "id-59"


@pytest.mark.parametrize("changes", [{"min_free_bytes": 10**18}, {"directory": "/proc/nowhere"}, {"max_bytes": 8}])
def test_what_cannot_be_written_is_dropped_and_counted(watched, audit, changes):
    recorder, _, dropped = audit(**changes)
    ask(watched, recorder, [photo(1)] * 3)
    assert len(dropped) == 3


def test_a_slow_disk_drops_records_rather_than_time(audit, monkeypatch, seen, watched):
    recorder, _, dropped = audit()
    monkeypatch.setattr("camserve.monitor.audit._Files.write", lambda self, line: time.sleep(0.02))
    for _ in range(400):
        recorder.refused(BadImage("cut"))
        recorder._spent.clear()  # this is about the queue, not about the rate
    assert len(dropped) >= 100
    while not recorder._queue.empty():
        recorder._queue.get_nowait()


def test_labels_that_come_later_give_accuracy_and_calibration(tmp_path, capsys):
    folder = tmp_path / "audit"
    folder.mkdir()
    lines = []
    for number in range(100):
        confidence = 0.95 if number < 60 else 0.55
        best = {"index": 1, "label": "dog", "probability": confidence}
        base = {"schema": 1, "time": f"2026-01-01T00:00:{number % 60:02d}", "request_id": str(number)}
        base |= {"reason": "sampled" if number < 90 else "low_margin", "model": {"name": "m", "version": "1"}}
        lines.append(json.dumps({**base, "outcome": "ok", "predictions": [best]}))
    (folder / "audit-1-x.jsonl").write_text("\n".join(lines) + '\n{"cut')
    truth = tmp_path / "truth.csv"
    # Right: 57 of the first 60 and 18 of the 30 that follow; the last ten do not count.
    wrong = {0, 1, 2, *range(60, 72), *range(90, 100)}
    truth.write_text("request_id,class_index\n" + "".join(f"{n},{0 if n in wrong else 1}\n" for n in range(100)))
    found = score(read_audit(folder.glob("audit-*.jsonl")), read_truth(truth))
    assert found.labelled == 90
    assert found.accuracy == pytest.approx(75 / 90)
    assert found.calibration_error == pytest.approx((60 * 0.0 + 30 * 0.05) / 90, abs=1e-9)
    assert found.classes == {0: (15, 0), 1: (75, 75)}
    assert found.interval == wilson(75, 90)
    assert main(["audit", "score", str(folder), "--labels", str(truth)]) == 0
    assert "accuracy 0.833" in capsys.readouterr().out


def test_the_interval_of_a_share_is_wilsons():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


def test_records_become_a_table(watched, audit, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    recorder, folder, _ = audit()
    ask(watched, recorder, [photo(1), b"no picture"])
    (tmp_path / "truth.csv").write_text("request_id,class_index\nid-0,1\n")
    out = tmp_path / "x.parquet"
    assert main(["audit", "to-parquet", str(folder), "--out", str(out), "--labels", str(tmp_path / "truth.csv")]) == 0
    table = parquet.read_table(out).to_pydict()
    assert table["outcome"] == ["ok", "unsupported_format"]
    assert table["truth"] == [1, None]
    assert table["signals.energy"][0] is not None


def test_settings_decide_who_records(baseline, tmp_path):
    model = {"name": "m", "version": "1", "weights": "w"}
    assert live_recorders(Monitoring(enabled=False), baseline, Sink(), model, True) == []
    sink = Sink()
    recorders = live_recorders(Monitoring(audit=AuditSpec(str(tmp_path))), baseline, sink, model, False)
    assert [type(each) for each in recorders] == [Counters, Audit]
    assert sink.gauges["cam_selftest_ok", ()] == 0
    for each in recorders:
        each.close()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"directory": "logs"}, "directory must be absolute"),
        ({"directory": "/x", "rate": 2.0}, "rate must be 0 to 1"),
        ({"directory": "/x", "envelope": "xml"}, "envelope 'xml' is not one of"),
        ({"directory": "/x", "ratio": 1}, "unknown key 'ratio'"),
    ],
)
def test_a_wrong_audit_setting_is_named(block, message):
    with pytest.raises(ConfigError, match=message):
        read(Monitoring, {"audit": block}, "monitoring")


def test_inspect_and_settings_know_the_baseline(watched):
    contents = read_contents(watched)
    assert contents.settings.monitoring.baseline == "baseline.json"
    assert contents.sizes["baseline.json"] < 40_000


def test_a_value_of_the_audit_log_falls_into_the_bin_that_the_server_counted_it_in():
    values = np.log(np.repeat([3 / 4, 1, 341 / 256, 4 / 3, 3 / 2], [20, 10, 25, 25, 20]))
    edges = quantile_bins(values, 5).edges
    told = np.array([float(f"{value:.6g}") for value in values])  # as the log writes it
    assert len(edges) == 4
    assert (np.searchsorted(edges, told, side="right") == np.searchsorted(edges, values, side="right")).all()


def random_rows(blank):
    """As many rows as ``blank`` is long, of no picture."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(len(blank), 5)).astype(np.float32)
    odds = np.exp(scores)
    predictions = Predictions(scores, odds / odds.sum(axis=1, keepdims=True))
    pictures = generator.integers(0, 256, (len(blank), 8, 8, 3), np.uint8)
    sizes = generator.uniform(100, 1000, (len(blank), 2)).tolist()
    target = Target(Prediction(0, "0", 0.5, 0.0), "predicted")
    maps = [
        Explanation("blank", "gradcam", "layer", "for", target)
        if empty
        else Explanation(
            "ok",
            "gradcam",
            "layer",
            "for",
            target,
            grid=generator.uniform(size=(7, 7)).astype(np.float32),
            scale=1.0,
            balance={"negative": generator.uniform()},
        )
        for empty in blank
    ]
    return MeasuredRows((), SignalInputs(predictions, PixelRows(pictures, 1), sizes, maps))


def test_a_reference_needs_pictures():
    with pytest.raises(ConfigError, match="500 pictures"):
        make_baseline([], {}, Provenance("", "", "", "", "", "", 0), None)
    empty = random_rows(np.zeros(0, bool))
    with pytest.raises(ConfigError, match="0 could be read"):
        make_baseline([empty], {}, Provenance("", "", "", "", "", "", 0), None)


def test_a_blank_map_costs_the_least_baseline_no_signal():
    seen = random_rows(np.arange(LEAST_IMAGES) == 7)
    made = make_baseline([seen], {}, Provenance("", "", "", "", "", "", LEAST_IMAGES), None)
    assert set(made.signals) == set(SIGNALS)
    assert sum(made.signals["area"].counts) == LEAST_IMAGES - 1
    assert made.shares["blank"] == 1 / LEAST_IMAGES


def test_classes_that_were_frequent_by_luck_do_not_drift_when_they_are_counted_again():
    """Uniform classes: chosen and counted on the same pictures, the top ones would stand out in every window."""
    generator = np.random.default_rng(4)
    bins = class_bins(generator.integers(0, 50, 2000))
    assert len(bins.top) == TOP_CLASSES
    share = sum(bins.counts[:-1]) / sum(bins.counts)
    assert share == pytest.approx(TOP_CLASSES / 50, abs=0.04)
    assert class_bins(generator.integers(0, 1000, 500)).top == ()
