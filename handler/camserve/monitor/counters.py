"""Counting into bins, and handing on what was added since the last time.

Counts of several workers, replicas and versions add up exactly; distributions that were averaged
before they were sent would not. All series are fixed when the model is loaded, so that their number
is bounded and each begins at 0.
"""

from __future__ import annotations

import itertools
import logging
import math
import operator
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from camserve.errors import RequestError
from camserve.monitor.baseline import Baseline
from camserve.monitor.measure import NAMES, SignalInputs, join
from camserve.monitor.recorder import Finished
from camserve.monitor.signals import SIGNALS
from camserve.values import TRAITS

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
KEPT = 64  # rows whose signals wait to be computed and counted
MAX_SERIES = 250
OUTCOMES = ("ok", *(each.code for each in RequestError.__subclasses__()))
STATUSES = ("ok", "blank", "skipped", "failed")
FLAGS = ("atc", "ood", "low_confidence", "blank")
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # what ``decode`` may say: never a caller's own text
STAGES = ("decode", "preprocess", "forward", "explain", "render")
RECENT = 512  # batches whose stages the quantiles are of
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
LATENCIES = {  # milliseconds -> label
    **{float(each): str(each) for each in (10, 25, 50, 100, 250, 500, 1000)},
    math.inf: "Inf",
}
LIMITS = tuple(LATENCIES)

COUNTERS: Mapping[str, tuple[str, ...]] = {  # name -> its own labels; the sink adds those of the model
    "cam_bin_total": ("feature", "bin"),
    "cam_requests_total": ("outcome",),
    "cam_explanations_total": ("status",),
    "cam_flags_total": ("flag",),
    "cam_inputs_total": ("format",),
    "cam_input_traits_total": ("trait",),
    "cam_latency_milliseconds_total": ("le",),
    "cam_stage_microseconds_total": ("stage",),
    "cam_batches_total": (),
    "cam_monitor_failures_total": (),
    "cam_audit_dropped_total": (),
}
GAUGES: Mapping[str, tuple[str, ...]] = {
    "cam_ref_count": ("feature", "bin"),
    "cam_ref_mean": ("feature", "bin"),
    "cam_ref_value": ("value",),
    "cam_selftest_ok": (),
    "cam_stage_milliseconds": ("stage", "quantile"),
}

Key = tuple[str, tuple[str, ...]]  # metric, label values

FIXED: list[Key] = [
    *(("cam_requests_total", (code,)) for code in OUTCOMES),
    *(("cam_explanations_total", (status,)) for status in STATUSES),
    *(("cam_flags_total", (flag,)) for flag in FLAGS),
    *(("cam_inputs_total", (kind,)) for kind in PICTURE_FORMATS),
    *(("cam_input_traits_total", (trait,)) for trait in TRAITS),
    *(("cam_latency_milliseconds_total", (label,)) for label in LATENCIES.values()),
    *(("cam_stage_microseconds_total", (stage,)) for stage in STAGES),
    *((metric, ()) for metric, labels in COUNTERS.items() if not labels),
]


class Sink(Protocol):
    """Where numbers go: a server's own metrics."""

    def count(self, metric: str, labels: Sequence[str], amount: int) -> None:
        """Add to a counter."""

    def gauge(self, metric: str, labels: Sequence[str], value: float) -> None:
        """Set a gauge."""


class Binning:
    """Which bin of which signal a value falls into, for all signals at once."""

    def __init__(self, baseline: Baseline | None) -> None:
        """Take the edges from the baseline; without one, cut bounded signals into equal parts."""
        self.edges = {name: each for name in NAMES if (each := _edges(name, baseline)) is not None}
        self._columns = [NAMES.index(name) for name in self.edges]
        widest = max(map(len, self.edges.values()), default=0)
        self._table = np.full((len(self.edges), widest), np.inf)
        for row, each in enumerate(self.edges.values()):
            self._table[row, : len(each)] = each
        sizes = [len(each) + 1 for each in self.edges.values()]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._top = np.array(baseline.classes.top if baseline else (), np.int64)

    @property
    def keys(self) -> list[Key]:
        """The series of the bins, in the order of ``count``."""
        labels = [(name, f"b{number}") for name, each in self.edges.items() for number in range(len(each) + 1)]
        labels += [("class", each) for each in class_labels(self._top.tolist())]
        return [("cam_bin_total", each) for each in labels]

    def count(self, signals: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return how many rows of signals (N, S) and classes (N,) fall into each bin, int64."""
        values = signals[:, self._columns]
        place = (values[:, :, None] >= self._table).sum(axis=2) + self._offsets[:-1]
        counts = np.bincount(place[np.isfinite(values)], minlength=self._offsets[-1])
        return np.concatenate([counts, self._count_classes(classes)])

    def _count_classes(self, classes: np.ndarray) -> np.ndarray:
        if not len(self._top):
            return np.zeros(0, np.int64)
        same = classes[:, None] == self._top
        return np.append(same.sum(axis=0), (~same.any(axis=1)).sum())


def _edges(name: str, baseline: Baseline | None) -> tuple[float, ...] | None:
    if baseline is not None:
        return baseline.signals[name].edges if name in baseline.signals else None
    bounds = SIGNALS[name].bounds
    return None if bounds is None else tuple(np.linspace(*bounds, SIGNALS[name].bins + 1)[1:-1].tolist())


class Counts:
    """What is to be added to each series; several threads may add and take."""

    def __init__(self, keys: Sequence[Key], count: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        """Begin at 0; ``count`` sorts signals (N, S) and classes (N,) into the first series."""
        self._count = count
        self._kept: list[SignalInputs] = []
        self._rows = 0  # of these
        self.keys = tuple(keys)
        self.place = {key: number for number, key in enumerate(keys)}
        self._waiting = [0] * len(keys)  # what was added since the last time
        self._lock = threading.Lock()

    def add(self, amounts: Iterable[tuple[Key, int]]) -> None:
        """Add to some series. KeyError, and nothing is added: there is none of that name."""
        places = [(self.place[key], amount) for key, amount in amounts]
        with self._lock:
            for place, amount in places:
                self._waiting[place] += amount

    def keep(self, material: SignalInputs) -> None:
        """Take rows whose signals are to be counted with those of others: many cost hardly more than one."""
        with self._lock:
            self._kept.append(material)
            self._rows += len(material)
            if self._rows >= KEPT:
                self._settle()

    def _settle(self) -> None:
        if self._kept:
            kept, self._kept, self._rows = self._kept, [], 0
            together = join(kept)
            bins = self._count(together.values(), together.predictions.classes).tolist()
            self._waiting[: len(bins)] = map(operator.add, self._waiting, bins)

    def take(self) -> list[tuple[Key, int]]:
        """Return what was added to which series since the last time."""
        with self._lock:
            self._settle()
            waiting, self._waiting = self._waiting, [0] * len(self.keys)
        return [(key, amount) for key, amount in zip(self.keys, waiting) if amount]


class Times:
    """How long batches and their stages took; several threads may add and look.

    Bins of every stage would be too many series beside the signals', so the quantiles of the last batches are one
    worker's own.
    """

    def __init__(self) -> None:
        """Begin with no batch seen."""
        self._recent = {stage: deque[float](maxlen=RECENT) for stage in STAGES}
        self._spent = dict.fromkeys(STAGES, 0.0)  # milliseconds, of which whole microseconds are handed on
        self._within = [0] * len(LATENCIES)  # requests by the least limit that their batch kept to
        self._lock = threading.Lock()

    def add(self, stages: Mapping[str, float], milliseconds: float, requests: int) -> None:
        """Take the times of one batch: of each stage, and in all. KeyError: there is no such stage."""
        with self._lock:
            for stage, each in stages.items():
                self._recent[stage].append(each)
                self._spent[stage] += each
            self._within[bisect_left(LIMITS, milliseconds)] += requests

    def take(self) -> Iterator[tuple[Key, int]]:
        """Return what is to be added to the series of times since the last time."""
        with self._lock:
            spent = {stage: int(each * 1000) for stage, each in self._spent.items()}
            for stage, whole in spent.items():
                self._spent[stage] -= whole / 1000
            within, self._within = self._within, [0] * len(LATENCIES)
        yield from ((("cam_stage_microseconds_total", (stage,)), whole) for stage, whole in spent.items())
        for label, requests in zip(LATENCIES.values(), itertools.accumulate(within)):
            yield ("cam_latency_milliseconds_total", (label,)), requests

    def quantiles(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Tell the quantiles, in milliseconds, of each stage: 0 before the first batch."""
        with self._lock:
            recent = {stage: list(each) for stage, each in self._recent.items()}
        for stage, each in recent.items():
            ordered = sorted(each) or [
                0.0
            ]  # a flush happens while a client waits: NumPy would take several times as long
            for name, share in QUANTILES.items():
                yield (stage, name), ordered[math.ceil(share * len(ordered)) - 1]


class Counters:
    """A recorder that counts, and flushes to a sink at the end of a batch or, if none comes, by a timer."""

    def __init__(self, sink: Sink, baseline: Baseline | None) -> None:
        """Fix the series and emit each of them with 0, so that increases are right from the first request."""
        self._sink = sink
        self._binning = Binning(baseline)
        self._counts = Counts(self._binning.keys + FIXED, self._binning.count)
        self._times = Times()
        self._flushed = time.monotonic()
        self._closed = threading.Event()
        for metric, labels in self._counts.keys:
            sink.count(metric, labels, 0)
        self._tell_stages()
        if baseline is not None:
            _emit_reference(sink, baseline)
        threading.Thread(target=self._keep_flushing, name="camserve-metrics", daemon=True).start()

    def record(self, finished: Finished) -> None:
        """Count one batch."""
        self._counts.add(_amounts(finished))
        self._times.add(finished.stages, finished.milliseconds, len(finished.rows))
        for measured in finished.measured:
            self._counts.keep(measured.material)
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
        added = [*self._counts.take(), *(each for each in self._times.take() if each[1])]
        for (metric, labels), amount in added:
            self._sink.count(metric, labels, amount)
        if added:
            self._tell_stages()

    def _tell_stages(self) -> None:
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
    """Tell what one batch adds to which series, bins and times left out; a series may come more than once."""
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
        for each in outcome.explanations:
            yield ("cam_explanations_total", (each.status,)), 1
    yield ("cam_batches_total", ()), 1


def class_labels(top: Sequence[int]) -> list[str]:
    """Return the bins of the predicted class: by index, since a server's parser trips over names."""
    return [*(f"c{index:04d}" for index in top), "other"] if top else []


def _emit_reference(sink: Sink, baseline: Baseline) -> None:
    for name, bins in baseline.signals.items():
        for number, (count, mean) in enumerate(zip(bins.counts, bins.means)):
            sink.gauge("cam_ref_count", (name, f"b{number}"), count)
            sink.gauge("cam_ref_mean", (name, f"b{number}"), mean)
    for label, count in zip(class_labels(baseline.classes.top), baseline.classes.counts):
        sink.gauge("cam_ref_count", ("class", label), count)
    values = {"images": baseline.provenance.images, **baseline.shares}
    if baseline.accuracy is not None:
        values["accuracy"] = baseline.accuracy.accuracy
    for name, value in values.items():
        sink.gauge("cam_ref_value", (name,), value)
