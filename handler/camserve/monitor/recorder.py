"""What the monitor hands to whoever keeps its records: counters, an audit log, a collector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from camserve.errors import RequestError
from camserve.monitor.measure import MeasuredRows, RowSignals
from camserve.values import Answer, RawRequest


@dataclass(frozen=True)
class Finished:
    """One batch that has been answered."""

    rows: Sequence[RawRequest]
    outcomes: Sequence[Answer | RequestError]
    measured: Sequence[MeasuredRows]  # of the forward passes that succeeded
    stages: Mapping[str, float]  # milliseconds
    milliseconds: float  # in all

    @cached_property
    def signals(self) -> list[RowSignals | None]:
        """The signals of each row; None for a row that was not measured."""
        found: list[RowSignals | None] = [None] * len(self.rows)
        for measured in self.measured:
            for number, request in enumerate(measured.requests):
                found[request.row] = RowSignals(measured, number)
        return found


class Recorder(Protocol):
    """Keeps records of every batch; what it raises is caught, counted and logged once."""

    def record(self, finished: Finished) -> None:
        """Record a batch."""

    def refused(self, error: RequestError) -> None:
        """Record that a request was refused before it reached a batch."""

    def failed(self) -> None:
        """Record that the monitoring itself has failed."""
