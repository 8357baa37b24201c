"""The order of the stages: accept, run, draw, write. No other file knows it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from camserve.answer.draw import draw_answer, drawn_side, takes_time
from camserve.answer.respond import ModelName, refuse, respond
from camserve.errors import Overloaded, RequestError
from camserve.intake.accept import KeptSide, accept, open_to_accept
from camserve.intake.options import OptionSchema
from camserve.monitor import Monitor
from camserve.monitor.audit_record import THUMBNAIL
from camserve.serving.batch import BatchRunner, Classifier
from camserve.serving.guard import Result, Row, attempt, attempt_rows
from camserve.serving.pace import LARGE_PICTURES, Pace
from camserve.serving.plan import Plan, Planned, in_groups, refuse_excess
from camserve.settings import Settings
from camserve.values import Answer, Options, RawRequest, Request, Response

NO_TIME = "the server is busy: the time of a batch was over before this picture's turn; try again"


class Pipeline:
    """One loaded archive: answers batches of rows, each row in its own guard."""

    def __init__(self, classifier: Classifier, settings: Settings, model: ModelName, monitor: Monitor) -> None:
        """Stand ready. ConfigError: a target layer is not in the network."""
        self.settings = settings
        self.heads = classifier.heads
        self.model = model
        self.monitor = monitor
        self.network = classifier.network
        self.slowed = classifier.slowed
        self.runner = BatchRunner(classifier, settings, monitor)
        self._at_once = self.runner.rows_at_once
        self.transform = classifier.transform
        self._schema = OptionSchema(settings, classifier.heads)
        self.pace = Pace()
        self.shown_samples: tuple[str, ...] = ()  # data URIs, for the page for browsers
        self._threads = ThreadPoolExecutor(torch.get_num_threads(), "picture")

    def answer(self, rows: Sequence[RawRequest]) -> list[Response]:
        """Return the answer to every row, in order; a bad row gets its own refusal and nothing is raised.

        More rows than one forward pass should hold are answered group by group, while there is time.
        """
        arrival = time.monotonic()
        self.monitor.begin()
        with self.monitor.stage("decode"):
            plans = refuse_excess([attempt(self._plan, row) for row in rows], self.settings.limits)
        responses: dict[int, Response] = {}
        for place, group in enumerate(in_groups(plans, self._at_once)):
            chosen = [plans[number] for number in group]
            if place:
                self.monitor.begin()
                if not self.pace.has_time(len(group), arrival + self.pace.seconds):
                    chosen = [Overloaded(NO_TIME)] * len(group)
            responses.update(zip(group, self._answer_group([rows[number] for number in group], chosen, arrival)))
        return [responses[number] for number in range(len(rows))]

    def decode(self, rows: Sequence[RawRequest]) -> list[Request | RequestError]:
        """Return every row decoded, or refused, for ``complete``; may run beside the network's work on others."""
        arrival = time.monotonic()
        plans = [attempt(self._plan, row) for row in rows]
        return self._in_threads(lambda number: self._accepted(plans[number], number, arrival), range(len(plans)))

    def complete(self, rows: Sequence[RawRequest], accepted: Sequence[Request | RequestError]) -> list[Response]:
        """Return the answers to one group of rows that ``decode`` returned, at most ``runner.rows_at_once``.

        Their time begins now: that in which they waited for others is not theirs.
        """
        self.monitor.begin()
        start = time.monotonic()
        return self._complete(rows, [self._begin_now(row, start) for row in accepted], start)

    def _begin_now(self, row: Request | RequestError, start: float) -> Request | RequestError:
        if isinstance(row, RequestError):
            return row
        until, spare_until = self._ends(row.options, start)
        return replace(row, until=until, spare_until=spare_until)

    def _answer_group(self, rows: Sequence[RawRequest], plans: Sequence[Planned], arrival: float) -> list[Response]:
        start = time.monotonic()
        with self.monitor.stage("decode"):
            accepted = self._in_threads(
                lambda number: self._accepted(plans[number], number, arrival), range(len(plans))
            )
        return self._complete(rows, accepted, start)

    def _complete(
        self, rows: Sequence[RawRequest], accepted: Sequence[Request | RequestError], start: float
    ) -> list[Response]:
        answers = iter(attempt_rows(self.runner.run, [row for row in accepted if isinstance(row, Request)]))
        outcomes = [next(answers) if isinstance(row, Request) else row for row in accepted]
        with self.monitor.stage("render"):
            drawn = self._draw_all(outcomes)
        written = [attempt(self._write, row) if isinstance(row, Answer) else row for row in drawn]
        ends = [last if isinstance(last, RequestError) else first for first, last in zip(outcomes, written)]
        self.pace.took(time.monotonic() - start, sum(isinstance(row, Request) for row in accepted))
        self.monitor.end(rows, ends)
        return [
            refuse(outcome, row.request_id) if isinstance(outcome, RequestError) else outcome
            for row, outcome in zip(rows, written)
        ]

    def _draw_all(self, outcomes: Sequence[Answer | RequestError]) -> list[Answer | Response | RequestError]:
        """Return what is sent of each row; threads cost more than an answer without pictures does."""
        is_drawn = any(isinstance(row, Answer) and takes_time(row.request.options) for row in outcomes)
        draw = self._draw_row
        return self._in_threads(draw, outcomes) if is_drawn else [draw(row) for row in outcomes]

    def _draw_row(self, row: Answer | RequestError) -> Answer | Response | RequestError:
        return attempt(self._draw, row) if isinstance(row, Answer) else row

    def _in_threads(self, work: Callable[[Row], Result], rows: Sequence[Row]) -> list[Result]:
        """Decoders, resizing and encoders release Python's lock, so that rows need not wait for one another.

        What is written in Python does not: reading a header takes longer in a thread.
        """
        return [work(row) for row in rows] if len(rows) == 1 else list(self._threads.map(work, rows))

    def _plan(self, row: RawRequest) -> Plan:
        options = self._schema.options(row)
        kept = self._kept_side(options)
        opened = open_to_accept(row.image, self.settings.input, self.settings.limits, kept, self.transform)
        return Plan(row, options, opened)

    def _kept_side(self, options: Options) -> KeptSide:
        """Return what says how many pixels of a picture's longest side will be drawn or recorded."""
        audit, most = self.settings.monitoring.audit, self.settings.limits.max_picture_side
        thumbnail = THUMBNAIL if audit is not None and audit.pictures else 0
        return lambda width, height: drawn_side(options, width, height, most) or thumbnail

    def _accepted(self, plan: Planned, number: int, arrival: float) -> Request | RequestError:
        return attempt(self._accept, plan, number, arrival) if isinstance(plan, Plan) else plan

    def _accept(self, plan: Plan, number: int, arrival: float) -> Request:
        options = plan.options
        accepted = accept(
            plan.picture,
            self.settings.input,
            self._kept_side(options),
            self.transform,
            arrival + self.pace.seconds * LARGE_PICTURES,
        )
        until, spare_until = self._ends(options, arrival)
        return Request(
            accepted.picture,
            accepted.pixels,
            accepted.region,
            options,
            plan.raw.request_id,
            number,
            until,
            spare_until,
            accepted.preview,
        )

    def _ends(self, options: Options, start: float) -> tuple[float, float]:
        """Return ``until`` and ``spare_until`` of a request whose time begins at ``start``."""
        until = start + (options.deadline_ms or math.inf) / 1000
        return until, min(until, start + self.pace.seconds)

    def _draw(self, answer: Answer) -> Answer | Response:
        limits = self.settings.limits
        return draw_answer(answer, self.settings.input.size, limits.max_picture_side, limits.max_response_bytes)

    def _write(self, answer: Answer) -> Response:
        if "timing" in answer.request.options.details:
            answer = replace(answer, timing_ms=self.monitor.stages)
        return respond(answer, self.model, self.settings.limits.max_response_bytes)
