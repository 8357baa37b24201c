"""Ratios of times that were measured side by side, so that a machine's drift cancels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

WARM_ROUNDS = 3
WARM_UP_SECONDS = 1.0  # after which no further warm-up round begins

Work = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long to measure one cell of a table: both at least, so that short passes are measured often."""

    rounds: int = 15
    seconds: float = 5.0
    longest: float = float("inf")  # seconds that a cell may take at all; a dearer one is left out
    of_processor: bool = False  # seconds are those that this process's threads computed: other programs do not count

    def least(self, seconds: float) -> float:
        """Return the seconds that a cell takes whose every round takes so long: its rounds, and one to warm up."""
        return (self.rounds + 1) * seconds

    def allows(self, seconds: float) -> bool:
        """Whether a cell whose every round takes so long is to be measured."""
        return self.least(seconds) <= self.longest


QUICK_EFFORT = Effort(rounds=3, seconds=2.0, longest=28.0)


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of some measurements."""

    median: float
    low: float
    high: float
    count: int


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of at least one value, linear between neighbours."""
    low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    return Spread(median, low, high, len(values))


def summarise_ratios(times: Mapping[str, Sequence[float]], one: str, other: str) -> Spread:
    """Return the spread of ``one`` / ``other``, each ratio taken within one round."""
    return spread_of([mine / theirs for mine, theirs in zip(times[one], times[other])])


def time_in_turns(works: Mapping[str, Work], effort: Effort) -> dict[str, list[float]]:
    """Run every work once a round and return its times in seconds, by round.

    Every other round runs in reverse, so that effects of the order average out.
    """
    _warm_up(works)
    times: dict[str, list[float]] = {name: [] for name in works}
    start = time.perf_counter()
    number = 0
    while number < effort.rounds or time.perf_counter() - start < effort.seconds:
        for name in list(works)[:: -1 if number % 2 else 1]:
            times[name].append(_time(works[name], effort))
        number += 1
    return times


def _warm_up(works: Mapping[str, Work]) -> None:
    start = time.perf_counter()
    for _ in range(WARM_ROUNDS):
        for work in works.values():
            work()
        if time.perf_counter() - start > WARM_UP_SECONDS:
            break


def _time(work: Work, effort: Effort) -> float:
    clock = time.process_time if effort.of_processor else time.perf_counter
    _wait_for_gpu()
    start = clock()
    work()
    _wait_for_gpu()
    return clock() - start


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
