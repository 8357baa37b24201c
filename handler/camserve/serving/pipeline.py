"""The order of the stages: accept, run, draw, write. No other file knows it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from camserve.answer.draw import draw_answer, drawn_side
from camserve.answer.respond import ModelName, refuse, respond
from camserve.errors import RequestError
from camserve.intake.accept import accept_picture
from camserve.intake.options import OptionSchema
from camserve.monitor import Monitor
from camserve.monitor.audit_record import THUMBNAIL
from camserve.serving.batch import BatchRunner, Classifier
from camserve.serving.guard import Result, Row, attempt, attempt_rows
from camserve.settings import Settings
from camserve.values import Answer, RawRequest, Request, Response


class Pipeline:
    """One loaded archive: answers batches of rows, each row in its own guard."""

    def __init__(self, classifier: Classifier, settings: Settings, model: ModelName, monitor: Monitor) -> None:
        """Stand ready. ConfigError: a target layer is not in the network."""
        self.settings = settings
        self.heads = classifier.heads
        self.model = model
        self.monitor = monitor
        self.network = classifier.network
        self.runner = BatchRunner(classifier, settings, monitor)
        self._at_once = self.runner.rows_at_once
        self._transform = classifier.transform
        self._schema = OptionSchema(settings, classifier.heads)
        self._threads = ThreadPoolExecutor(torch.get_num_threads(), "picture")

    def answer(self, rows: Sequence[RawRequest]) -> list[Response]:
        """Return the answer to every row, in order; a bad row gets its own refusal and nothing is raised.

        More rows than one forward pass should hold are answered group by group.
        """
        arrival = time.monotonic()
        groups = [rows[start : start + self._at_once] for start in range(0, len(rows), self._at_once)]
        return [response for group in groups for response in self._answer_group(group, arrival)]

    def _answer_group(self, rows: Sequence[RawRequest], arrival: float) -> list[Response]:
        self.monitor.begin()
        with self.monitor.stage("decode"):
            accepted = self._in_threads(
                lambda number: attempt(self._accept, rows[number], number, arrival), range(len(rows))
            )
        answers = iter(attempt_rows(self.runner.run, [row for row in accepted if isinstance(row, Request)]))
        outcomes = [next(answers) if isinstance(row, Request) else row for row in accepted]
        with self.monitor.stage("render"):
            drawn = self._in_threads(lambda row: attempt(self._draw, row) if isinstance(row, Answer) else row, outcomes)
        written = [attempt(self._write, row) if isinstance(row, Answer) else row for row in drawn]
        ends = [last if isinstance(last, RequestError) else first for first, last in zip(outcomes, written)]
        self.monitor.end(rows, ends)
        return [
            refuse(outcome, row.request_id) if isinstance(outcome, RequestError) else outcome
            for row, outcome in zip(rows, written)
        ]

    def _in_threads(self, work: Callable[[Row], Result], rows: Sequence[Row]) -> list[Result]:
        """Decoders, resizing and encoders release Python's lock, so that rows need not wait for one another."""
        return [work(row) for row in rows] if len(rows) == 1 else list(self._threads.map(work, rows))

    def _accept(self, row: RawRequest, number: int, arrival: float) -> Request:
        options = self._schema.options(row)
        limits, audit = self.settings.limits, self.settings.monitoring.audit
        thumbnail = THUMBNAIL if audit is not None and audit.pictures else 0
        accepted = accept_picture(
            row.image,
            self.settings.input,
            limits,
            lambda width, height: drawn_side(options, width, height, limits.max_picture_side) or thumbnail,
            self._transform,
        )
        until = arrival + min(options.deadline_ms or math.inf, limits.explain_ms) / 1000
        picture, pixels, region, preview = accepted
        return Request(picture, pixels, region, options, row.request_id, until, number, preview)

    def _draw(self, answer: Answer) -> Answer | Response:
        return draw_answer(answer, self.settings.input.size, self.settings.limits.max_picture_side)

    def _write(self, answer: Answer) -> Response:
        if "timing" in answer.request.options.details:
            answer = replace(answer, timing_ms=self.monitor.stages)
        return respond(answer, self.model, self.settings.limits.max_response_bytes)
