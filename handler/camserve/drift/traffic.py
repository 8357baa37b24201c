"""One version's sampled audit records beside its baseline, as the panels read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from camserve.drift.audit_log import CLASSES, count_bins, reference_bins, windows_of
from camserve.drift.charts import Points
from camserve.drift.counts import Bins, aligned
from camserve.drift.statistics import MINIMUM_REQUESTS, Drift, compare_counts, log_e_detector
from camserve.drift.watcher import can_drift
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.baseline import Baseline

SPANS = (60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)  # seconds that a window may have
MAX_WINDOWS = 48
LARGEST_LOG = 690.0  # whose exponential is still a float


@dataclass(frozen=True)
class Traffic:
    """One version's sampled records beside its baseline."""

    records: Sequence[AuditRecord]  # the sample, oldest first
    baseline: Baseline

    @property
    def span(self) -> float:
        """Seconds from the first record to the last."""
        return self.records[-1].instant - self.records[0].instant

    @cached_property
    def seconds(self) -> float:
        """Length of a window, in seconds: long enough to judge drift in it."""
        shortest = max(self.span / MAX_WINDOWS, self.span * 2 * MINIMUM_REQUESTS / len(self.records))
        return next((span for span in SPANS if span >= shortest), SPANS[-1])

    @cached_property
    def windows(self) -> dict[float, list[AuditRecord]]:
        """The records of each window, by its start."""
        return windows_of(self.records, self.seconds)

    @cached_property
    def stages(self) -> list[str]:
        """The stages whose times the records hold."""
        return sorted({name for record in self.records for name in record.timing_ms} - {"all"})

    @cached_property
    def reference(self) -> Bins:
        """The baseline's counts."""
        return reference_bins(self.baseline)

    @cached_property
    def live(self) -> Bins:
        """All counts."""
        return count_bins(self.records, self.baseline)

    @cached_property
    def counted(self) -> dict[float, Bins]:
        """The counts of each window."""
        return {start: count_bins(records, self.baseline) for start, records in self.windows.items()}

    @cached_property
    def evidence(self) -> Points:
        """The e-detector after each window."""
        stacks = {
            name: [aligned(bins, counts[name]) for counts in self.counted.values()]
            for name, bins in self.reference.items()
            if can_drift(bins)
        }
        points = []
        for count, start in enumerate(self.windows, 1):
            histories = {name: (pairs[0][0], np.stack([n for _, n in pairs[:count]])) for name, pairs in stacks.items()}
            points.append((start, math.exp(min(log_e_detector(histories)[0], LARGEST_LOG))))
        return points

    def drift(self, feature: str, counts: Bins) -> Drift | None:
        """Compare one feature, if there are requests enough to judge."""
        m, n = aligned(self.reference[feature], counts[feature])
        if n.sum() < MINIMUM_REQUESTS or not can_drift(self.reference[feature]):
            return None
        return compare_counts(m, n, feature != CLASSES)

    @property
    def scarcity(self) -> str:
        """Why no window can be judged: how many requests the fullest has, and how many it needs."""
        most = max(len(records) for records in self.windows.values())
        return f"too few requests: {most} in a window, and {MINIMUM_REQUESTS} are needed"

    def means(self, name: str) -> Points:
        """Return a signal's mean in each window."""
        return self._mean(lambda record: record.signals[name], lambda record: name in record.signals)

    def shares(self, holds: Callable[[AuditRecord], bool], among: Callable[[AuditRecord], bool]) -> Points:
        """Return in each window the share of records, among some, of which something holds."""
        return self._mean(holds, among)

    def _mean(self, value: Callable[[AuditRecord], float], among: Callable[[AuditRecord], bool]) -> Points:
        return [
            (start, float(np.mean(values)))
            for start, records in self.windows.items()
            if (values := [value(record) for record in records if among(record)])
        ]

    def level(self, value: float | None) -> Points:
        """Return a constant, for the length of the record."""
        return [] if value is None else [(start, value) for start in self.windows]
