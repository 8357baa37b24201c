"""Watching a pipeline at work: stages, signals, outcomes. Nothing here can fail a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from camserve.errors import RequestError
from camserve.monitor.baseline import Baseline, load_baseline
from camserve.monitor.live import live_recorders
from camserve.monitor.measure import MeasuredRows, PassObservation, PixelRows, Watch, measure, sample_pixels
from camserve.monitor.recorder import Finished, Recorder
from camserve.monitor.signals import Predictions
from camserve.values import Answer, RawRequest, Request
from camserve.warning_codes import LOW_CONFIDENCE, OUT_OF_DISTRIBUTION, AnswerWarning

logger = logging.getLogger(__name__)

WARNINGS = {"ood": OUT_OF_DISTRIBUTION, "low_confidence": LOW_CONFIDENCE}


class Monitor:
    """Times the stages of one batch after another and measures its rows, for recorders that may come later."""

    def __init__(
        self, watch: Watch | None = None, baseline: Baseline | None = None, low_confidence: float | None = None
    ) -> None:
        """Start with no batch seen. Without ``watch`` nothing is measured."""
        self.stages: dict[str, float] = {}
        self.baseline = baseline
        self.selftest_ok = True
        self.watch = watch
        self._low_confidence = low_confidence
        self._recorders: tuple[Recorder, ...] = ()
        self._measured: list[MeasuredRows] = []
        self._start = 0.0
        self._complained = False

    def report_to(self, *recorders: Recorder) -> None:
        """Hand every batch from now on to these."""
        self._recorders = recorders

    def begin(self) -> None:
        """Forget the last batch."""
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
        """Return a part of what the network is about to see, while the processor still has it at hand.

        None: nobody wants to know what is measured, or it failed.
        """
        if self.watch is None or not (self._recorders or self.baseline):
            return None
        try:
            return sample_pixels(requests)
        except Exception:
            self._fail()
            return None

    def look(self, shown: Callable[[], PassObservation]) -> list[tuple[AnswerWarning, ...]]:
        """Measure one forward pass that has succeeded; return the warnings of each of its rows.

        Nothing is returned for any row where measuring failed.
        """
        try:
            assert self.watch is not None  # or nobody has glanced
            measured = measure(shown(), self.watch, self._judge)
        except Exception:
            self._fail()
            return []
        self._measured.append(measured)
        return [tuple(WARNINGS[name] for name in flags if name in WARNINGS) for flags in measured.flags]

    def _judge(self, predictions: Predictions, row: int, best: int) -> list[str]:
        if self.baseline is not None:
            return self.baseline.flags(predictions, row, best, self._low_confidence)
        confidence, limit = float(predictions.probabilities[row, best]), self._low_confidence
        return ["low_confidence"] if limit is not None and confidence < limit else []

    def end(self, rows: Sequence[RawRequest], outcomes: Sequence[Answer | RequestError]) -> None:
        """Hand the batch to the recorders."""
        if self._recorders and rows:
            spent = (time.perf_counter() - self._start) * 1000
            finished = Finished(rows, outcomes, tuple(self._measured), self.stages, spent)
            self._tell(lambda recorder: recorder.record(finished))

    def refused(self, error: RequestError) -> None:
        """Hand on that a request was refused before it reached a batch."""
        self._tell(lambda recorder: recorder.refused(error))

    def _tell(self, news: Callable[[Recorder], None]) -> None:
        for recorder in self._recorders:
            try:
                news(recorder)
            except Exception:
                self._fail()

    def _fail(self) -> None:
        """Count a fault of the monitoring, and log the first."""
        if not self._complained:
            self._complained = True
            logger.exception("camserve: monitoring failed; requests are answered all the same")
        for recorder in self._recorders:
            try:
                recorder.failed()
            except Exception:
                logger.debug("camserve: a recorder cannot even count its failures")


__all__ = ["Monitor", "PassObservation", "Recorder", "Watch", "live_recorders", "load_baseline"]
