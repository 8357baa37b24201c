"""One replica of a model. Ray gets this module by value, and the archive's own code runs in it.

Nothing of camserve may be imported here before the archive's folder is on the path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from camserve.asgi.gather import Gatherer  # travels by value too, as the next
from camserve.operate.unpack_once import unpack_once

# What travels is of plain types: a class of this module would travel with every request.
PlainRow = tuple[dict[str, object], dict[str, str], str]  # fields, headers, request id
Series = tuple[str, tuple[str, ...]]  # metric, label values
Counted = tuple[dict[Series, int], dict[Series, float]]  # since the last time: amounts of counters, values of gauges
Answered = tuple[int, str, bytes, dict[str, str], Counted]  # status, content type, body, headers


class ReplicaPlan(NamedTuple):
    """What a replica loads, and how it gathers requests."""

    place: str  # an archive, or the folder of its files
    config: Mapping[str, Any]  # its model-config.yaml
    name: str
    version: str
    batch_size: int
    delay: float  # seconds
    timeout: float  # seconds
    gpu: int | None  # its number, where one may be used


class ReplicaSink:
    """A sink that keeps numbers until they are fetched; used from one thread."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._amounts: dict[Series, int] = {}
        self._values: dict[Series, float] = {}

    def count(self, metric: str, labels: Sequence[str], amount: int) -> None:
        """Add to a counter."""
        key = (metric, tuple(labels))
        self._amounts[key] = self._amounts.get(key, 0) + amount

    def gauge(self, metric: str, labels: Sequence[str], value: float) -> None:
        """Set a gauge."""
        self._values[metric, tuple(labels)] = value

    def fetch(self) -> Counted:
        """Return what was counted, and begin again."""
        counted = (self._amounts, self._values)
        self._amounts, self._values = {}, {}
        return counted


class Replica:
    """Answers rows in batches, in a thread of its own."""

    def __init__(self, plan: ReplicaPlan) -> None:
        """Load an archive. ConfigError: one line says what is wrong."""
        folder = self._unpack(plan.place)
        sys.path.insert(0, str(folder))
        from camserve.monitor.counters import Counters
        from camserve.serving.engines.answering import Answering, ReceivedRow, load_worker, recorders_into
        from camserve.serving.load import device_of

        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own, from the half that it keeps free for a change
        device = device_of(plan.gpu)
        pipeline = load_worker(folder, plan.config, plan.name, plan.version, device, plan.batch_size)
        self._tally = ReplicaSink()
        recorders = recorders_into(self._tally, pipeline)
        self._counters = [recorder for recorder in recorders if isinstance(recorder, Counters)]
        for counters in self._counters:
            counters.close()  # its timer: numbers travel with answers
        pipeline.monitor.report_to(*recorders)
        self._answering, self._received = Answering(pipeline), ReceivedRow
        self._timeout = plan.timeout
        # Not by serve.batch, which closes batches while another is answered: under load they hold few rows.
        self._gatherer = Gatherer(self._answer_here, plan.batch_size, plan.delay)

    def _unpack(self, place: str) -> Path:
        if Path(place).is_dir():
            return Path(place)
        with open(place, "rb") as archive:
            return unpack_once(archive)

    async def answer(self, row: PlainRow) -> Answered:
        """Return the answer to a row."""
        return await self._gatherer.answer(row)

    async def counted(self) -> Counted:
        """Return what was counted since the last answer: after a start, every series at 0."""
        return await self._gatherer.beside(self._tally.fetch)

    async def check_health(self) -> None:
        """RuntimeError: a batch has been under way for longer than the response timeout; Ray starts another replica."""
        if self._gatherer.seconds > self._timeout:
            raise RuntimeError(f"camserve: a batch has been under way for more than {self._timeout:.0f} s")

    def _answer_here(self, rows: list[PlainRow]) -> list[Answered]:
        responses = self._answering.answer([self._received(*row) for row in rows])
        for counters in self._counters:
            counters.flush()
        counted: list[Counted] = [self._tally.fetch(), *(({}, {}) for _ in rows[1:])]
        return [
            (int(response.status), response.content_type, response.body, dict(response.headers), numbers)
            for response, numbers in zip(responses, counted)
        ]
