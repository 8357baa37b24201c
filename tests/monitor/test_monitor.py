"""The monitor: it measures what is comparable, warns, and can never cost an answer."""

import json

import numpy as np

from camserve.build.baseline.measure import Collector
from camserve.build.mar.unpack import open_archive
from camserve.errors import BadImage
from camserve.monitor import signals
from camserve.monitor.audit import Audit
from camserve.monitor.counters import Counters
from camserve.monitor.live import live_recorders
from camserve.monitor.signals import SIGNALS
from camserve.monitor.totals import KEPT
from camserve.settings import AuditSpec, Monitoring
from camserve.values import RawRequest
from monitoring_parts import TableSink, collect
from synthetic_photos import photo


def test_only_maps_of_usual_requests_are_compared(pipeline, clear_photo):
    collector = Collector()
    pipeline.monitor.report_to(collector)
    wishes = [{}, {"evidence": "signed"}, {"evidence": "against"}, {"contrast": "next"}, {"explain": "false"}]
    for wish in [*wishes, {"target": "bird"}, {"target": "bird,predicted"}]:
        pipeline.answer([RawRequest(clear_photo, wish)])
    compared = [rows.signal_inputs.maps is not None for rows in collector.batches]
    assert compared == [True, True, False, False, False, False, True]
    np.testing.assert_allclose(collector.batches[0].values, collector.batches[1].values, rtol=1e-5)


class Broken:
    """A recorder that fails at everything."""

    def record(self, finished):
        raise RuntimeError("record")

    def refused(self, error):
        raise RuntimeError("refused")

    def failed(self):
        raise RuntimeError("failed")


def test_a_recorder_that_raises_fails_no_request_and_is_counted(with_baseline, counting, caplog):
    sink = TableSink()
    with open_archive(with_baseline) as pipeline:
        alone = [answer.body for answer in pipeline.answer([RawRequest(photo(1)), RawRequest(b"x")])]
        counters = counting(sink, pipeline.monitor.baseline)
        pipeline.monitor.report_to(Broken(), counters)
        for _ in range(3):
            assert [answer.body for answer in pipeline.answer([RawRequest(photo(1)), RawRequest(b"x")])] == alone
        pipeline.monitor.refused(BadImage("cut"))
    counters.flush()
    assert sink.counts["cam_requests_total", ("ok",)] == 3
    assert sink.counts["cam_monitor_failures_total", ()] == 4
    assert len([record for record in caplog.records if "monitoring failed" in record.message]) == 1


def test_a_signal_that_raises_fails_no_request_and_is_counted(with_baseline, counting, monkeypatch):
    broken = signals.Signal("inputs", lambda view: 1 / 0, None, "", "", "")
    monkeypatch.setitem(SIGNALS, "brightness", broken)
    sink = TableSink()
    with open_archive(with_baseline) as pipeline:
        counters = counting(sink, pipeline.monitor.baseline)
        pipeline.monitor.report_to(counters)
        answers = [pipeline.answer([RawRequest(photo(1))] * 8) for _ in range(KEPT // 8)]
    assert {answer.status for batch in answers for answer in batch} == {200}
    counters.flush()
    assert sink.counts["cam_monitor_failures_total", ()] == 1
    assert sink.counts["cam_requests_total", ("ok",)] == KEPT


def warning_codes(pipeline, bodies):
    answers = pipeline.answer([RawRequest(body) for body in bodies])
    return [{warning["code"] for warning in json.loads(answer.body)["warnings"]} for answer in answers]


def test_unusual_and_doubtful_pictures_are_marked_where_there_is_a_baseline(pipeline, bare, baseline):
    bodies = [photo(number, dark=0.05) for number in range(3)] + [photo(number) for number in range(60)]
    with open_archive(bare) as without:
        assert not set().union(*warning_codes(without, bodies)) & {"OUT_OF_DISTRIBUTION", "LOW_CONFIDENCE"}
    found = warning_codes(pipeline, bodies)
    flags = [
        baseline.flags(rows.signal_inputs.predictions, row, best, None)
        for rows in collect(pipeline, bodies, size=len(bodies))
        for row, best in enumerate(rows.classes)
    ]
    assert ["OUT_OF_DISTRIBUTION" in codes for codes in found] == ["ood" in names for names in flags]
    assert ["LOW_CONFIDENCE" in codes for codes in found] == ["low_confidence" in names for names in flags]
    assert any("low_confidence" in names for names in flags)
    assert 0 < sum("ood" in names for names in flags) < len(flags)


def test_settings_decide_who_records(baseline, tmp_path):
    model = {"name": "m", "version": "1", "weights": "w"}
    assert live_recorders(Monitoring(enabled=False), baseline, TableSink(), model, True) == []
    sink = TableSink()
    recorders = live_recorders(Monitoring(audit=AuditSpec(str(tmp_path))), baseline, sink, model, False)
    assert [type(recorder) for recorder in recorders] == [Counters, Audit]
    assert sink.gauges["cam_selftest_ok", ()] == 0
    for recorder in recorders:
        recorder.close()
