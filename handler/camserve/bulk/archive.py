"""Asking an archive in this process: pictures are decoded while the network works on those before them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from camserve.bulk.reading import Loaded
from camserve.bulk.rows import Row, make_row, refused
from camserve.errors import RequestError
from camserve.monitor.audit import describe_row
from camserve.monitor.audit_record import SAMPLED, AuditRecord
from camserve.monitor.recorder import Finished
from camserve.serving.heap import trim_grown_heap
from camserve.values import RawRequest, Request

if TYPE_CHECKING:
    from camserve.serving.pipeline import Pipeline

Batch = Sequence[Loaded]


class RunRecorder:
    """A recorder that describes every row of a batch as an audit log would."""

    def __init__(self, model: Mapping[str, str]) -> None:
        """Begin without a batch; ``model`` has name, version and weights."""
        self._model = model
        self.records: list[AuditRecord] = []  # of the last batch; none where it could not be measured

    def record(self, finished: Finished) -> None:
        """Describe a batch."""
        self.records = [
            describe_row(self._model, row, outcome, signals, SAMPLED, finished, pictures=False)
            for row, outcome, signals in zip(finished.rows, finished.outcomes, finished.signals)
        ]

    def refused(self, error: RequestError) -> None:
        """Nothing: every row reaches a batch."""

    def failed(self) -> None:
        """Leave the batch without records."""
        self.records = []


class ArchiveAsker:
    """Asks a pipeline with the same options about every picture."""

    def __init__(self, pipeline: Pipeline, options: Mapping[str, object]) -> None:
        """Stand ready; the pipeline reports to this asker from now on."""
        model = pipeline.model
        self._pipeline = pipeline
        self._options = dict(options)
        self._recorder = RunRecorder({"name": model.name, "version": model.version, "weights": model.weights})
        pipeline.monitor.report_to(self._recorder)

    def __call__(self, pictures: Iterable[Loaded]) -> Iterator[Row]:
        """Yield the row of every picture, in order."""
        pending: tuple[Batch, Future[list[Request | RequestError]]] | None = None
        with ThreadPoolExecutor(1, "ahead") as ahead:
            for batch in _batches(pictures, self._pipeline.runner.rows_at_once):
                decoded = ahead.submit(self._pipeline.decode, self._requests(batch))
                if pending is not None:
                    yield from self._finish(*pending)
                pending = (batch, decoded)
            if pending is not None:
                yield from self._finish(*pending)

    def _requests(self, batch: Batch) -> list[RawRequest]:
        return [
            RawRequest(picture.content, self._options, request_id=picture.photo.path)
            for picture in batch
            if not picture.code
        ]

    def _finish(self, batch: Batch, decoded: Future[list[Request | RequestError]]) -> Iterator[Row]:
        requests = self._requests(batch)
        responses = iter(self._pipeline.complete(requests, decoded.result()) if requests else [])
        records = iter(self._recorder.records if requests else [])
        for picture in batch:
            if picture.code:
                yield refused(picture)
            else:
                yield make_row(picture, json.loads(next(responses).body), next(records, None))
        trim_grown_heap()


def _batches(pictures: Iterable[Loaded], size: int) -> Iterator[Batch]:
    remaining = iter(pictures)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
