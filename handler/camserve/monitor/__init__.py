"""Measuring a pipeline at work: stages, signals, outcomes. Nothing here can fail a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from camserve.errors import RequestError
from camserve.monitor.baseline import Baseline, load_baseline
from camserve.monitor.live import live_recorders
from camserve.monitor.measure import MapFilter, MeasuredRows, PassObservation, PixelRows, measure_pass, sample_pixels
from camserve.monitor.recorder import Finished, Recorder
from camserve.monitor.views import Predictions
from camserve.values import Answer, RawRequest, Request
from camserve.warning_codes import LOW_CONFIDENCE, OUT_OF_DISTRIBUTION, AnswerWarning

logger = logging.getLogger(__name__)

WARNINGS = {"ood": OUT_OF_DISTRIBUTION, "low_confidence": LOW_CONFIDENCE}


class Monitor:
    """Times the stages of each batch and measures its rows, for the recorders."""

    def __init__(
        self, map_filter: MapFilter | None = None, baseline: Baseline | None = None, low_confidence: float | None = None
    ) -> None:
        """Start without a batch. Without ``map_filter`` nothing is measured."""
        self.stages: dict[str, float] = {}
        self.baseline = baseline
        self.selftest_ok: bool | None = None  # None: there was no self-test
        self.map_filter = map_filter
        self._low_confidence = low_confidence
        self._recorders: tuple[Recorder, ...] = ()
        self._measured: list[MeasuredRows] = []
        self._start = 0.0
        self._logged = False

    def report_to(self, *recorders: Recorder) -> None:
        """Send every further batch to these recorders."""
        self._recorders = recorders

    def begin(self) -> None:
        """Begin a batch."""
        self.stages = {}
        self._measured = []
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time, in milliseconds, to the batch's ``stages``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + (time.perf_counter() - start) * 1000

    def sample_pixels(self, requests: Sequence[Request]) -> PixelRows | None:
        """Return a sample of the input while it is in cache; None if monitoring is off or failed."""
        is_used = self._recorders or self.baseline or self._low_confidence is not None
        if self.map_filter is None or not is_used:
            return None
        try:
            return sample_pixels(requests)
        except Exception:
            self._fail()
            return None

    def observe(self, observation: Callable[[], PassObservation]) -> list[tuple[AnswerWarning, ...]]:
        """Measure one forward pass that has succeeded; return the warnings of each of its rows, none if that failed."""
        try:
            assert self.map_filter is not None  # sample_pixels returned pixels
            measured = measure_pass(observation(), self.map_filter, self._judge)
        except Exception:
            self._fail()
            return []
        self._measured.append(measured)
        return [tuple(WARNINGS[name] for name in flags if name in WARNINGS) for flags in measured.flags]

    def _judge(self, predictions: Predictions, row: int, best: int) -> list[str]:
        if self.baseline is not None:
            return self.baseline.flags(predictions, row, best, self._low_confidence)
        limit = self._low_confidence
        if limit is None or predictions.probabilities is None:
            return []
        return ["low_confidence"] if float(predictions.probabilities[row, best]) < limit else []

    def end(self, rows: Sequence[RawRequest], outcomes: Sequence[Answer | RequestError]) -> None:
        """End the batch and hand it to the recorders."""
        if self._recorders and rows:
            spent = (time.perf_counter() - self._start) * 1000
            finished = Finished(rows, outcomes, tuple(self._measured), self.stages, spent)
            self._notify(lambda recorder: recorder.record(finished))

    def refused(self, error: RequestError) -> None:
        """Report that a request was refused before it reached a batch."""
        self._notify(lambda recorder: recorder.refused(error))

    def _notify(self, event: Callable[[Recorder], None]) -> None:
        for recorder in self._recorders:
            try:
                event(recorder)
            except Exception:
                self._fail()

    def _fail(self) -> None:
        """Count a fault of the monitoring, and log the first."""
        if not self._logged:
            self._logged = True
            logger.exception("camserve: monitoring failed; requests are answered all the same")
        for recorder in self._recorders:
            try:
                recorder.failed()
            except Exception:
                logger.debug("camserve: a recorder cannot count its failures")


__all__ = ["MapFilter", "Monitor", "PassObservation", "Recorder", "live_recorders", "load_baseline"]
