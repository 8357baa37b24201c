"""What the monitor hands to whoever keeps its records: counters, an audit log, a collector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from camserve.errors import RequestError
from camserve.monitor.measure import MeasuredRows
from camserve.values import Answer, RawRequest


@dataclass(frozen=True)
class Finished:
    """One batch that has been answered."""

    rows: Sequence[RawRequest]
    outcomes: Sequence[Answer | RequestError]
    measured: Sequence[MeasuredRows]  # of the forward passes that succeeded
    stages: Mapping[str, float]  # milliseconds
    milliseconds: float  # in all

    def find(self, answer: Answer) -> tuple[MeasuredRows, int] | None:
        """Return where the signals of one answered row are."""
        for measured in self.measured:
            for number, request in enumerate(measured.requests):
                if request is answer.request:
                    return measured, number
        return None


class Recorder(Protocol):
    """Keeps records of every batch; what it raises is caught, counted and logged once."""

    def record(self, finished: Finished) -> None:
        """Keep what one batch was."""

    def refused(self, error: RequestError) -> None:
        """Keep that a request was refused before it reached a batch."""

    def failed(self) -> None:
        """Keep that the monitoring itself has failed."""
