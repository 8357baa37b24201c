"""Counters: what is counted, under which series, and how TorchServe writes it."""

import re
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from camserve.build.baseline.measure import TOP_CLASSES
from camserve.errors import BadImage
from camserve.input_spec import EXTRA_FORMATS
from camserve.intake.containers import USUAL_FORMATS, sniff
from camserve.monitor.binning import Binning
from camserve.monitor.recorder import Finished
from camserve.monitor.series import COUNTERS, GAUGES, MAX_SERIES, OUTCOMES, PICTURE_FORMATS, QUANTILES, RECENT, STAGES
from camserve.monitor.signals import NAMES, SIGNALS
from camserve.serving.engines.metrics import TorchServeSink
from camserve.values import TRAITS, RawRequest
from monitoring_parts import PHOTOS, TableSink
from synthetic_photos import photo

BINS = ("cam_bin_total", "confidence")


def finished(measured, outcomes=()):
    return Finished((), outcomes, measured, {"forward": 1.5}, 20.0)


def totals(counting, batches, baseline):
    sink = TableSink()
    counters = counting(sink, baseline)
    for batch in batches:
        counters.record(finished([batch]))
    counters.flush()
    return {key: amount for key, amount in sink.counts.items() if key[0] in ("cam_bin_total", "cam_flags_total")}


def test_histograms_of_two_halves_add_up_exactly(counting, batches, baseline):
    rows = sum(len(batch.requests) for batch in batches)
    maps = rows - sum(sum(batch.signal_inputs.blank) for batch in batches)
    for reference in (baseline, None):
        whole, first, second = (totals(counting, part, reference) for part in (batches, batches[:7], batches[7:]))
        assert whole == {key: first[key] + second[key] for key in whole}
        assert sum(count for (_, labels), count in whole.items() if labels[0] == "confidence") == rows
        assert sum(count for (_, labels), count in whole.items() if labels[0] == "area") == maps
        assert whole["cam_flags_total", ("blank",)] == rows - maps


def test_a_value_on_an_edge_belongs_to_the_bin_above(baseline):
    binning = Binning(baseline)
    values = np.full((3, len(NAMES)), np.nan)
    edges = baseline.signals["energy"].edges
    values[:, NAMES.index("energy")] = [edges[0], np.nextafter(edges[0], -np.inf), edges[-1] + 1e9]
    counted = binning.count(values, np.array([0, 1, 0]))
    found = {labels: int(count) for (_, labels), count in zip(binning.keys, counted) if count and labels[0] == "energy"}
    assert found == {("energy", "b0"): 1, ("energy", "b1"): 1, ("energy", "b9"): 1}
    assert counted.sum() == 6  # three energies, three classes, and no row that has no value


def test_every_series_begins_at_zero_and_they_are_few(counting, baseline):
    sink = TableSink()
    counting(sink, baseline)
    assert set(sink.counts.values()) == {0}
    assert {metric for metric, _ in sink.counts} == set(COUNTERS)
    for (metric, labels), _ in [*sink.counts.items(), *sink.gauges.items()]:
        assert len(labels) == len({**COUNTERS, **GAUGES}[metric])
    full = sum(signal.bins for signal in SIGNALS.values()) + TOP_CLASSES + 1  # all bins distinct, and other classes
    fixed = sum(1 for metric, _ in sink.counts if metric != "cam_bin_total")
    assert full + fixed <= MAX_SERIES
    assert sink.gauges["cam_ref_value", ("images",)] == PHOTOS
    assert sum(value for (_, labels), value in sink.gauges.items() if labels[:1] == ("class",)) == PHOTOS // 2


def test_only_what_was_added_is_flushed(counting, batches, baseline):
    sink = TableSink()
    counters = counting(sink, baseline)
    counters.record(finished(batches[:1]))
    counters.flush()
    before = dict(sink.counts)
    counters.flush()
    assert sink.counts == before
    assert before["cam_stage_microseconds_total", ("forward",)] == 1500
    assert before["cam_batches_total", ()] == 1


def test_quantiles_are_those_of_the_last_batches(counting, baseline):
    sink = TableSink()
    counters = counting(sink, baseline)
    assert {sink.gauges["cam_stage_milliseconds", (stage, name)] for stage in STAGES for name in QUANTILES} == {0.0}
    batch = finished([])
    for milliseconds in [1e6] * 10 + list(range(1, RECENT + 1)):
        counters.record(replace(batch, stages={"forward": float(milliseconds)}))
    counters.flush()
    found = {name: sink.gauges["cam_stage_milliseconds", ("forward", name)] for name in QUANTILES}
    assert found == {"p50": 256.0, "p90": 461.0, "p99": 507.0}
    assert sink.gauges["cam_stage_milliseconds", ("decode", "p99")] == 0.0


def test_outcomes_are_counted_by_code(pipeline, counting):
    sink = TableSink()
    counters = counting(sink, pipeline.monitor.baseline)
    pipeline.monitor.report_to(counters)
    rows = [RawRequest(photo(1)), RawRequest(b"x"), RawRequest(photo(2), {"explain": "false"}), RawRequest(None)]
    pipeline.answer([*rows, RawRequest(photo(3), {"target": "top:2", "explain": "probability>0.99"})])
    pipeline.monitor.refused(BadImage("cut"))
    counters.flush()
    assert sink.of("cam_requests_total") == {"ok": 3, "unsupported_format": 1, "missing_image": 1, "bad_image": 1}
    statuses = sink.of("cam_explanations_total")
    assert sum(statuses.values()) == 3
    assert statuses["skipped"] == 2
    latency = [count for (name, _), count in sink.counts.items() if name == "cam_latency_milliseconds_total"]
    assert latency == sorted(latency)
    assert latency[-1] == 5


def test_rows_that_are_refused_for_their_channels_are_not_counted_as_served(pipeline, counting):
    sink = TableSink()
    counters = counting(sink, pipeline.monitor.baseline)
    pipeline.monitor.report_to(counters)
    refused = RawRequest(photo(2), {"channels": "99999"})
    for rows in ([refused, RawRequest(photo(1)), refused], [refused]):
        assert [answer.status for answer in pipeline.answer(rows)] == [200 if row.fields == {} else 400 for row in rows]
    counters.flush()
    assert sink.of("cam_requests_total") == {"ok": 1, "bad_option": 3}
    counted = [count for (name, labels), count in sink.counts.items() if (name, *labels[:1]) == BINS]
    assert sum(counted) == 1
    assert not sink.counts.get(("cam_monitor_failures_total", ()))


def test_pictures_are_counted_by_format(pipeline, counting, monkeypatch):
    sink = TableSink()
    counters = counting(sink, pipeline.monitor.baseline)
    pipeline.monitor.report_to(counters)
    more = replace(pipeline.settings, input=replace(pipeline.settings.input, extra_formats=("tiff",)))
    monkeypatch.setattr(pipeline, "settings", more)
    kinds = [*USUAL_FORMATS, "TIFF"]
    bodies = [*(encoded(kind) for kind in kinds), encoded("PNG"), photo(1)[:60], b"no picture"]
    pipeline.answer([RawRequest(body) for body in bodies])
    counters.flush()
    assert sink.of("cam_inputs_total") == {**dict.fromkeys(kinds, 1), "PNG": 2}


def test_pictures_are_counted_by_what_became_of_them(pipeline, counting):
    sink = TableSink()
    upright, turned = Image.Exif(), Image.Exif()
    upright[0x0112], turned[0x0112] = 1, 6
    counters = counting(sink, pipeline.monitor.baseline)
    pipeline.monitor.report_to(counters)
    bodies = [encoded("PNG", mode) for mode in ("RGB", "L", "L", "I;16", "RGBA", "LA")]
    bodies += [encoded("JPEG", "CMYK"), encoded("JPEG", exif=turned), encoded("JPEG", exif=upright)]
    bodies += [encoded("GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))])]
    answers = pipeline.answer([RawRequest(body) for body in bodies])
    assert {answer.status for answer in answers} == {200}
    counters.flush()
    found = sink.of("cam_input_traits_total")
    assert found == {"grey": 4, "deep": 1, "cmyk": 1, "flattened": 2, "rotated": 1, "animated": 1}
    assert set(found) == set(TRAITS)


def encoded(kind, mode="RGB", **options):
    buffer = BytesIO()
    picture = Image.open(BytesIO(photo(1)))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257)
    picture.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_format_that_is_decoded_has_a_series():
    assert set(PICTURE_FORMATS) == {*USUAL_FORMATS, *(name.upper() for name in EXTRA_FORMATS)}
    writable = [kind for kind in PICTURE_FORMATS if kind in Image.SAVE]  # an older Pillow knows no AVIF
    assert [sniff(encoded(kind), EXTRA_FORMATS) for kind in writable] == writable


def test_every_refusal_has_a_series():
    assert set(OUTCOMES) >= {"ok", "bad_image", "bad_option", "model_failed", "out_of_memory"}


def test_a_sink_that_raises_stops_nothing(counting, batches, baseline):
    class Dead(TableSink):
        alive = True

        def count(self, metric, labels, amount):
            if not self.alive:
                raise OSError("the pipe is gone")
            super().count(metric, labels, amount)

    sink = Dead()
    counters = counting(sink, baseline)
    sink.alive = False
    counters.record(finished(batches[:1]))
    with pytest.raises(OSError):
        counters.flush()
    sink.alive = True
    counters.record(finished(batches[:1]))
    counters.flush()
    assert sink.counts["cam_batches_total", ()] == 1


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
    lines = [record.message for record in caplog.records]
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
    block["model_metrics"]["counter"] = [counter for counter in counters if counter["name"] != "cam_bin_total"]
    counters[1]["dimensions"].reverse()  # cam_requests_total, whose values would be mixed up
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump(block))
    sink = TorchServeSink(metrics(tmp_path / "metrics.yaml"), "m", "1.0")
    sink.count("cam_bin_total", ("area", "b0"), 1)
    sink.count("cam_requests_total", ("ok",), 1)
    sink.count("cam_batches_total", (), 1)
    warning, line = (record.message for record in caplog.records)
    assert "does not declare cam_bin_total, cam_requests_total" in warning
    assert line.startswith("[METRICS]cam_batches_total.Count:1|#ModelVersion:1.0,ModelName:m,Level:Model|#type:COUNTER")
