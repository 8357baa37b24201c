"""Rows in, rows out: what an engine calls, whatever server it belongs to."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from camserve.answer.respond import refuse, write_json
from camserve.choices import JSON_TYPE
from camserve.errors import ConfigError, RequestError
from camserve.monitor import Recorder, live_recorders
from camserve.monitor.series import Sink
from camserve.monitor.signals import NAMES, OF_QUANTITIES
from camserve.serving.cores import count_threads
from camserve.serving.description import describe_model
from camserve.serving.engines.envelope import Envelope
from camserve.serving.engines.kserve import open_body
from camserve.serving.engines.rows import SentRow, read_row
from camserve.serving.engines.v2 import LENGTH_HEADER, is_v2, refuse_v2
from camserve.serving.guard import attempt
from camserve.serving.heap import keep_heap, limit_heap, share_heap, trim_grown_heap, trim_heap
from camserve.serving.load import load_archive
from camserve.serving.logs import guard_logs
from camserve.serving.pace import Pace, seconds_of_a_batch
from camserve.serving.pipeline import Pipeline
from camserve.serving.warm_up import time_slow_methods, warm_up
from camserve.settings import Settings, load_settings
from camserve.values import RawRequest, Response
from camserve.viewer.page import HTML_TYPE, render_page

logger = logging.getLogger(__name__)

NO_SETTINGS = (
    "model-config.yaml has no block camserve, which says what input and output of the network mean: "
    "torch-model-archiver cannot find that out, `camserve archive` does (docs/deploy.md)"
)
RESPONSE_TIMEOUT = 120  # seconds, TorchServe's own where an archive's configuration names none


@dataclass(frozen=True)
class ReceivedRow:
    """One request as a server hands it over."""

    fields: Mapping[str, object]  # of a form; any other body stands under "body"
    headers: Mapping[str, str]  # lower-case names; "explain" and "url_path" say what the route said
    request_id: str
    wants_description: bool = False  # the model description, and no answer


class Answering:
    """Answers the rows of a batch, each with its own status and content type."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Answer with a loaded archive."""
        self.pipeline = pipeline

    def answer(self, rows: Sequence[ReceivedRow]) -> list[Response]:
        """Return one response a row; never raises."""
        responses = self._answer(rows)
        trim_grown_heap()
        return responses

    def _answer(self, rows: Sequence[ReceivedRow]) -> list[Response]:
        envelopes = [self._open(number, row) for number, row in enumerate(rows)]
        answers = iter(self.pipeline.answer([request for envelope in envelopes for request in envelope.requests]))
        responses = []
        for row, envelope in zip(rows, envelopes):
            joined = attempt(envelope.join, [next(answers) for _ in envelope.requests])
            responses.append(joined if isinstance(joined, Response) else refuse(joined, row.request_id))
        return responses

    def description(self) -> dict[str, object]:
        """Return the model description."""
        pipeline = self.pipeline
        seconds, baseline = pipeline.pace.seconds, pipeline.monitor.baseline
        return describe_model(pipeline.model, pipeline.heads, pipeline.settings, seconds, baseline, pipeline.slowed)

    def _open(self, number: int, row: ReceivedRow) -> Envelope:
        if row.wants_description:  # its join is guarded where it is called
            return Envelope((), lambda _: Response(HTTPStatus.OK, JSON_TYPE, write_json(self.description())))
        page = attempt(self._page) if wants_page(row) else None
        if isinstance(page, Response):
            shown = page
            return Envelope((), lambda _: shown)
        sent = attempt(read_row, row.fields, row.headers, self.pipeline.settings.limits)
        opened = sent if isinstance(sent, RequestError) else attempt(self._envelope, number, row, sent)
        if not isinstance(opened, RequestError):
            return opened
        self.pipeline.monitor.refused(opened)
        body = sent.body if isinstance(sent, SentRow) else None
        speaks_v2 = LENGTH_HEADER.lower() in row.headers or (body is not None and is_v2(body))
        refusal = (refuse_v2 if speaks_v2 else refuse)(opened, row.request_id)
        return Envelope((), lambda _: refusal)

    def _envelope(self, number: int, row: ReceivedRow, sent: SentRow) -> Envelope:
        request = RawRequest(
            image=sent.image,
            fields=sent.options,
            headers=row.headers,
            path=row.headers.get("url_path", ""),
            must_explain=row.headers.get("explain") == "True",
            request_id=row.request_id,
            body=None if sent.body is None else number,
        )
        if sent.body is None:
            return Envelope((request,), lambda answers: answers[0])
        model, limits = self.pipeline.model, self.pipeline.settings.limits
        return open_body(request, sent.body, model.name, model.version, limits, sent.binary)

    def _page(self) -> Response | None:
        """Return the page for browsers, or nothing where it is longer than an answer may be."""
        limit = self.pipeline.settings.limits.max_response_bytes
        page = render_page(self.description(), limit, self.pipeline.shown_samples)
        return Response(HTTPStatus.OK, HTML_TYPE, page.body, page.headers) if len(page.body) <= limit else None


def wants_page(row: ReceivedRow) -> bool:
    """Whether a row is a browser's that opens the address: it sends nothing and names HTML. A method is never told."""
    return not any(row.fields.values()) and "text/html" in row.headers.get("accept", "").lower()


def load_worker(
    folder: Path, config: Mapping[str, Any], name: str, version: str, device: torch.device, batch_size: int
) -> Pipeline:
    """Load an unpacked archive into a worker of its own process; ``config`` is its model-config.yaml.

    Its batches get the time that suits this machine. ConfigError: one line says what is wrong.
    """
    guard_logs()
    share_heap()
    pipeline = load_archive(folder, _settings(config), name, version, device)
    keep_heap()
    _set_pace(pipeline, batch_size, float(config.get("responseTimeout", RESPONSE_TIMEOUT)))
    limit_heap()  # by the largest batch of usual requests, which has just been run
    trim_heap()
    return pipeline


def _settings(config: Mapping[str, Any]) -> Settings:
    """Read the archive's settings; a worker takes its share of the cores where nothing else is said."""
    if "camserve" not in config:
        raise ConfigError(NO_SETTINGS)
    settings = load_settings(config["camserve"])
    if settings.runtime.threads is not None:
        return settings
    share = count_threads(int(config.get("minWorkers", 1)))
    return dataclasses.replace(settings, runtime=dataclasses.replace(settings.runtime, threads=share))


def _set_pace(pipeline: Pipeline, batch_size: int, timeout: float) -> None:
    """Warm the pipeline up, and give its batches the time that suits this machine."""
    usual, slowest_map = warm_up(pipeline, batch_size), time_slow_methods(pipeline)
    seconds = seconds_of_a_batch(pipeline.settings.limits.answer_ms, usual, slowest_map, timeout)
    logger.info(
        "camserve: a batch gets %.1f s; a full one took %.2f s, a map by the slowest method %.2f s",
        seconds,
        usual,
        slowest_map,
    )
    pipeline.pace = Pace(seconds)


def recorders_into(sink: Sink, pipeline: Pipeline) -> list[Recorder]:
    """Return the recorders that an archive's settings ask for, with counters that go to ``sink``."""
    model, monitor = pipeline.model, pipeline.monitor
    names = OF_QUANTITIES if pipeline.heads[0].spec.is_quantity else NAMES
    card = dataclasses.asdict(model)
    return live_recorders(pipeline.settings.monitoring, monitor.baseline, sink, card, monitor.selftest_ok, names)
