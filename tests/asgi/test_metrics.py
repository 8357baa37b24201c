"""The page of all series."""

from camserve.asgi.metrics import Metrics, ModelSink


def test_gauges_of_a_replaced_version_leave_the_page_and_nothing_else_does():
    metrics = Metrics()
    old, new = (ModelSink(metrics, "pets", version) for version in ("1.0", "2.0"))
    for sink in (old, new):
        sink.gauge("cam_selftest_ok", [], 1.0)
        sink.gauge("cam_ref_mean", ["border", "3"], 0.5)
        sink.count("cam_batches_total", [], 2)
    old.close()
    old.close()
    samples = [line for line in metrics.page().decode().splitlines() if not line.startswith("#")]
    assert sorted(line.partition("{")[0] for line in samples if 'ModelVersion="1.0"' in line) == ["cam_batches_total"]
    assert len([line for line in samples if 'ModelVersion="2.0"' in line]) == 3
