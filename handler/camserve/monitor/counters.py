"""A recorder that counts batches into the server's metrics. Every series begins at 0."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence

from camserve.errors import RequestError
from camserve.monitor.baseline import Baseline
from camserve.monitor.binning import Binning, class_labels
from camserve.monitor.recorder import Finished
from camserve.monitor.series import FIXED, Key, Sink
from camserve.monitor.signals import CLASS, NAMES
from camserve.monitor.totals import Counts, Times

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0


class Counters:
    """A recorder that counts, and flushes to a sink at the end of a batch or, if none comes, by a timer."""

    def __init__(self, sink: Sink, baseline: Baseline | None, names: Sequence[str] = NAMES) -> None:
        """Fix the series, those of the signals ``names`` too; each starts with 0, so that increases are right."""
        self._sink = sink
        self._binning = Binning(baseline, names)
        self._counts = Counts(self._binning.keys + FIXED, self._binning.count)
        self._times = Times()
        self._flushed = time.monotonic()
        self._closed = threading.Event()
        for metric, labels in self._counts.keys:
            sink.count(metric, labels, 0)
        self._emit_stages()
        if baseline is not None:
            _emit_reference(sink, baseline)
        threading.Thread(target=self._keep_flushing, name="camserve-metrics", daemon=True).start()

    def record(self, finished: Finished) -> None:
        """Count one batch."""
        self._counts.add(_amounts(finished))
        self._times.add(finished.stages, finished.milliseconds, len(finished.rows))
        for measured in finished.measured:
            self._counts.keep(measured.signal_inputs)
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def refused(self, error: RequestError) -> None:
        """Count a request that was refused before it reached a batch."""
        self._counts.add([(("cam_requests_total", (error.code,)), 1)])

    def failed(self) -> None:
        """Count a fault of the monitoring."""
        self._counts.add([(("cam_monitor_failures_total", ()), 1)])

    def audit_dropped(self) -> None:
        """Count an audit record that was not written."""
        self._counts.add([(("cam_audit_dropped_total", ()), 1)])

    def flush(self) -> None:
        """Hand on what was added since the last flush."""
        self._flushed = time.monotonic()
        added = [*self._counts.take(), *(timed for timed in self._times.take() if timed[1])]
        for (metric, labels), amount in added:
            self._sink.count(metric, labels, amount)
        if added:
            self._emit_stages()

    def _emit_stages(self) -> None:
        for labels, milliseconds in self._times.quantiles():
            self._sink.gauge("cam_stage_milliseconds", labels, milliseconds)

    def close(self) -> None:
        """Stop the timer and flush for the last time."""
        self._closed.set()
        self.flush()

    def _keep_flushing(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception:
                self.failed()
                logger.exception("camserve: metrics could not be flushed")


def _amounts(finished: Finished) -> Iterator[tuple[Key, int]]:
    """Return what one batch adds to which series, bins and times left out; a series may come more than once."""
    for measured in finished.measured:
        for flags in measured.flags:
            for flag in flags:
                yield ("cam_flags_total", (flag,)), 1
    for outcome in finished.outcomes:
        if isinstance(outcome, RequestError):
            yield ("cam_requests_total", (outcome.code,)), 1
            continue
        yield ("cam_requests_total", ("ok",)), 1
        yield ("cam_inputs_total", (outcome.request.picture.format,)), 1
        for trait in outcome.request.picture.traits:
            yield ("cam_input_traits_total", (trait,)), 1
        for explanation in outcome.explanations:
            yield ("cam_explanations_total", (explanation.status,)), 1
    yield ("cam_batches_total", ()), 1


def _emit_reference(sink: Sink, baseline: Baseline) -> None:
    for name, bins in baseline.signals.items():
        for number, (count, mean) in enumerate(zip(bins.counts, bins.means)):
            sink.gauge("cam_ref_count", (name, f"b{number}"), count)
            sink.gauge("cam_ref_mean", (name, f"b{number}"), mean)
    for label, count in zip(class_labels(baseline.classes.top), baseline.classes.counts):
        sink.gauge("cam_ref_count", (CLASS, label), count)
    values = {"images": baseline.provenance.images, **baseline.shares}
    if baseline.accuracy is not None:
        values["accuracy"] = baseline.accuracy.accuracy
    for name, value in values.items():
        sink.gauge("cam_ref_value", (name,), value)
