"""Parts of the tests of monitoring: a server's metrics as a table, and the signals of photos."""

import numpy as np

from camserve.build.baseline.measure import Collector
from camserve.monitor.measure import MeasuredRows, PixelRows, SignalInputs
from camserve.monitor.views import Predictions
from camserve.values import Explanation, Prediction, RawRequest, Target

PHOTOS = 500  # of the baseline


def collect(pipeline, bodies, size=8):
    """Return what was measured of pictures, in batches of ``size``; all must be answered."""
    collector = Collector()
    pipeline.monitor.report_to(collector)
    for start in range(0, len(bodies), size):
        batch = enumerate(bodies[start : start + size], start)
        answers = pipeline.answer([RawRequest(body, request_id=f"r{number}") for number, body in batch])
        assert {answer.status for answer in answers} == {200}
    pipeline.monitor.report_to()
    assert not collector.failures
    return collector.batches


class TableSink:
    """A server's metrics, as a table."""

    def __init__(self):
        self.counts, self.gauges = {}, {}

    def count(self, metric, labels, amount):
        assert amount >= 0
        self.counts[metric, tuple(labels)] = self.counts.get((metric, tuple(labels)), 0) + amount

    def gauge(self, metric, labels, value):
        self.gauges[metric, tuple(labels)] = value

    def of(self, metric):
        """Return the counts of one metric that are not 0, by its first label."""
        return {labels[0]: count for (name, labels), count in self.counts.items() if name == metric and count}


def random_rows(blank):
    """Return as many measured rows as ``blank`` is long, of no picture."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(len(blank), 5)).astype(np.float32)
    odds = np.exp(scores)
    predictions = Predictions(scores, odds / odds.sum(axis=1, keepdims=True))
    pictures = generator.integers(0, 256, (len(blank), 8, 8, 3), np.uint8)
    sizes = generator.uniform(100, 1000, (len(blank), 2)).tolist()
    return MeasuredRows(
        (), SignalInputs(predictions, PixelRows(pictures, 1), sizes, [_map(empty, generator) for empty in blank])
    )


def _map(empty, generator):
    head = ("gradcam", "layer", "for", Target(Prediction(0, "0", 0.5, 0.0), "predicted"))
    if empty:
        return Explanation("blank", *head)
    grid, negative = generator.uniform(size=(7, 7)).astype(np.float32), generator.uniform()
    return Explanation("ok", *head, grid=grid, scale=1.0, balance={"negative": negative})
