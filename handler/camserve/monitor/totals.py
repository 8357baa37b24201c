"""What was added to each series since the last flush.

Counts of several workers, replicas and versions add up exactly; distributions that were averaged
before they were sent would not.
"""

from __future__ import annotations

import itertools
import math
import operator
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from camserve.monitor.measure import SignalInputs, join_inputs
from camserve.monitor.series import LATENCIES, LIMITS, QUANTILES, RECENT, STAGES, Key

KEPT = 64  # rows whose signals wait to be computed and counted


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

    def keep(self, inputs: SignalInputs) -> None:
        """Take rows whose signals are to be counted with those of others: many cost hardly more than one."""
        with self._lock:
            self._kept.append(inputs)
            self._rows += len(inputs)
            if self._rows >= KEPT:
                self._settle()

    def _settle(self) -> None:
        if self._kept:
            kept, self._kept, self._rows = self._kept, [], 0
            together = join_inputs(kept)
            bins = self._count(together.values(), together.predictions.classes).tolist()
            self._waiting[: len(bins)] = map(operator.add, self._waiting, bins)

    def take(self) -> list[tuple[Key, int]]:
        """Return what was added to which series since the last time."""
        with self._lock:
            self._settle()
            waiting, self._waiting = self._waiting, [0] * len(self.keys)
        return [(key, amount) for key, amount in zip(self.keys, waiting) if amount]


class Times:
    """How long batches and their stages took; several threads may add and read.

    Bins of every stage would be too many series beside the signals', so the quantiles of the last batches are one
    worker's own.
    """

    def __init__(self) -> None:
        """Begin without a batch."""
        self._recent = {stage: deque[float](maxlen=RECENT) for stage in STAGES}
        self._spent = dict.fromkeys(STAGES, 0.0)  # milliseconds, of which whole microseconds are handed on
        self._within = [0] * len(LATENCIES)  # requests by the least limit that their batch kept to
        self._lock = threading.Lock()

    def add(self, stages: Mapping[str, float], milliseconds: float, requests: int) -> None:
        """Take the times of one batch: of each stage, and in all. KeyError: there is no such stage."""
        with self._lock:
            for stage, spent in stages.items():
                self._recent[stage].append(spent)
                self._spent[stage] += spent
            self._within[bisect_left(LIMITS, milliseconds)] += requests

    def take(self) -> Iterator[tuple[Key, int]]:
        """Return what is to be added to the series of times since the last time."""
        with self._lock:
            spent = {stage: int(milliseconds * 1000) for stage, milliseconds in self._spent.items()}
            for stage, whole in spent.items():
                self._spent[stage] -= whole / 1000
            within, self._within = self._within, [0] * len(LATENCIES)
        yield from ((("cam_stage_microseconds_total", (stage,)), whole) for stage, whole in spent.items())
        for label, requests in zip(LATENCIES.values(), itertools.accumulate(within)):
            yield ("cam_latency_milliseconds_total", (label,)), requests

    def quantiles(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Return the quantiles, in milliseconds, of each stage: 0 before the first batch."""
        with self._lock:
            recent = {stage: list(times) for stage, times in self._recent.items()}
        for stage, times in recent.items():
            ordered = sorted(times) or [0.0]  # not by NumPy, which takes several times as long for so few
            for name, share in QUANTILES.items():
                yield (stage, name), ordered[math.ceil(share * len(ordered)) - 1]
