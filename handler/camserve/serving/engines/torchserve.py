"""TorchServe's rows, headers and statuses; nothing else knows them."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from camserve.answer.respond import refuse, write_json
from camserve.choices import JSON_TYPE
from camserve.errors import ConfigError, RequestError
from camserve.monitor import Recorder, live_recorders
from camserve.monitor.signals import NAMES, OF_QUANTITIES
from camserve.serving.card import describe_model
from camserve.serving.engines.envelope import Envelope
from camserve.serving.engines.kserve import open_body
from camserve.serving.engines.metrics import HandlerTime, TorchServeSink
from camserve.serving.engines.rows import SentRow, read_row
from camserve.serving.engines.service_envelopes import step_around_envelopes
from camserve.serving.engines.v2 import LENGTH_HEADER, is_v2, refuse_v2
from camserve.serving.guard import attempt
from camserve.serving.heap import keep_heap, trim_heap
from camserve.serving.load import load_archive
from camserve.serving.logs import guard_logs
from camserve.serving.pace import Pace, seconds_of_a_batch
from camserve.serving.pipeline import Pipeline
from camserve.serving.warm_up import time_slow_methods, warm_up
from camserve.settings import Settings, load_settings
from camserve.values import RawRequest, Response
from camserve.viewer.page import HTML_TYPE, render_page

logger = logging.getLogger(__name__)

RESPONSE_TIMEOUT = 120  # seconds, TorchServe's own where an archive's configuration names none
NO_ASYNC = (
    "asyncCommunication: true hands over one request at a time and needs an asynchronous handler: leave it out of "
    "model-config.yaml; batchSize answers many at once"
)
NO_SETTINGS = (
    "model-config.yaml has no block camserve, which says what input and output of the network mean: "
    "torch-model-archiver cannot find that out, `camserve archive` does (docs/deploy.md)"
)


class TorchServeHandler:
    """The two calls that TorchServe makes of a handler."""

    _pipeline: Pipeline

    def __init__(self) -> None:
        """Come into being before TorchServe makes its envelope."""
        step_around_envelopes()

    def initialize(self, context: Any) -> None:
        """Load the unpacked archive. RuntimeError, which TorchServe reports: one line says what is wrong."""
        guard_logs()
        keep_heap()
        properties = context.system_properties
        model = context.manifest["model"]
        if (context.model_yaml_config or {}).get("asyncCommunication"):
            raise RuntimeError(f"camserve: {NO_ASYNC}")
        try:
            self._pipeline = load_archive(
                Path(properties["model_dir"]),
                _settings(context.model_yaml_config or {}),
                model["modelName"],
                model["modelVersion"],
                device_of(properties.get("gpu_id")),
            )
        except ConfigError as error:
            raise RuntimeError(f"camserve: {error}") from None
        timeout = float((context.model_yaml_config or {}).get("responseTimeout", RESPONSE_TIMEOUT))
        _set_pace(self._pipeline, int(properties.get("batch_size") or 1), timeout)
        trim_heap()
        self._pipeline.monitor.report_to(*_recorders(self._pipeline, context))

    def handle(self, data: Sequence[Mapping[str, object]], context: Any) -> list[bytes]:
        """Answer every row of a batch with its own status and content type; never raises."""
        envelopes = [self._open(number, row, context) for number, row in enumerate(data)]
        answers = iter(self._pipeline.answer([request for envelope in envelopes for request in envelope.requests]))
        bodies = []
        for number, envelope in enumerate(envelopes):
            joined = attempt(envelope.join, [next(answers) for _ in envelope.requests])
            response = joined if isinstance(joined, Response) else refuse(joined, context.get_request_id(number) or "")
            _send(response, number, context)
            bodies.append(response.body)
        return bodies

    def _open(self, number: int, row: Mapping[str, object], context: Any) -> Envelope:
        headers = plain_headers(context.get_all_request_header(number))
        if is_describe_call(row, headers):
            return self._describe()
        page = attempt(self._page) if wants_page(row, headers) else None
        if isinstance(page, Response):
            shown = page
            return Envelope((), lambda _: shown)
        sent = attempt(read_row, row, headers, self._pipeline.settings.limits)
        opened = sent if isinstance(sent, RequestError) else attempt(self._envelope, number, sent, headers, context)
        if not isinstance(opened, RequestError):
            return opened
        self._pipeline.monitor.refused(opened)
        body = sent.body if isinstance(sent, SentRow) else None
        speaks_v2 = LENGTH_HEADER.lower() in headers or (body is not None and is_v2(body))
        refusal = (refuse_v2 if speaks_v2 else refuse)(opened, context.get_request_id(number) or "")
        return Envelope((), lambda _: refusal)

    def _describe(self) -> Envelope:
        """Return the model card as the answer; its join is guarded where it is called."""
        return Envelope((), lambda _: Response(HTTPStatus.OK, JSON_TYPE, write_json(self._card())))

    def _envelope(self, number: int, sent: SentRow, headers: Mapping[str, str], context: Any) -> Envelope:
        request = RawRequest(
            image=sent.image,
            fields=sent.options,
            headers=headers,
            path=headers.get("url_path", ""),
            must_explain=headers.get("explain") == "True",
            request_id=context.get_request_id(number) or "",
            body=None if sent.body is None else number,
        )
        if sent.body is None:
            return Envelope((request,), lambda answers: answers[0])
        model, limits = self._pipeline.model, self._pipeline.settings.limits
        return open_body(request, sent.body, model.name, model.version, limits, sent.binary)

    def _card(self) -> dict[str, object]:
        pipeline = self._pipeline
        seconds, baseline = pipeline.pace.seconds, pipeline.monitor.baseline
        return describe_model(pipeline.model, pipeline.heads, pipeline.settings, seconds, baseline)

    def _page(self) -> Response | None:
        """Return the page for browsers, or nothing where it is longer than an answer may be."""
        limit = self._pipeline.settings.limits.max_response_bytes
        page = render_page(self._card(), limit)
        return Response(HTTPStatus.OK, HTML_TYPE, page.body, page.headers) if len(page.body) <= limit else None


def wants_page(row: Mapping[str, object], headers: Mapping[str, str]) -> bool:
    """Whether a row is a browser's that opens the address: it sends nothing and names HTML. A method is never told."""
    return not any(row.values()) and "text/html" in headers.get("accept", "").lower()


def _settings(config: Mapping[str, Any]) -> Settings:
    """Read the archive's settings; a worker takes its share of the cores where nothing else is said."""
    if "camserve" not in config:
        raise ConfigError(NO_SETTINGS)
    settings = load_settings(config.get("camserve"))
    if settings.runtime.threads is not None:
        return settings
    share = max(1, len(os.sched_getaffinity(0)) // max(1, int(config.get("minWorkers", 1))))
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


def plain_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Return the request's own headers, names in lower case; TorchServe mixes those of form parts in, as dicts."""
    return {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}


def is_describe_call(row: Mapping[str, object], headers: Mapping[str, str]) -> bool:
    """Whether this is the management side asking for the model card, and no client that sends its header.

    TorchServe gives every request of a client a body, a content type or the header ``explain``.
    """
    return headers.get("describe") == "True" and not row and not {"explain", "content-type"} & set(headers)


def device_of(gpu: object) -> torch.device:
    """Return the device that TorchServe gave this worker."""
    return torch.device("cpu" if gpu is None or not torch.cuda.is_available() else f"cuda:{gpu}")


def _recorders(pipeline: Pipeline, context: Any) -> list[Recorder]:
    model, monitor = pipeline.model, pipeline.monitor
    name = context.metrics.model_name or model.name
    sink = TorchServeSink(context.metrics, name, model.version)
    spec, names = pipeline.settings.monitoring, OF_QUANTITIES if pipeline.heads[0].spec.is_quantity else NAMES
    recorders = live_recorders(spec, monitor.baseline, sink, dataclasses.asdict(model), monitor.selftest_ok, names)
    return [*recorders, HandlerTime(context.metrics, name)] if spec.enabled else recorders


def _send(response: Response, number: int, context: Any) -> None:
    """Set what goes beside the body. Only fixed ASCII: anything else can end the worker."""
    if not plain_headers(context.get_all_request_header(number)):
        # gRPC. TorchServe ends a worker that answers a streaming call without this header.
        context.set_response_header(number, "ts_stream_next", "false")
    if response.status != HTTPStatus.OK:
        context.set_response_status(response.status, HTTPStatus(response.status).phrase, number)
    context.set_response_content_type(number, response.content_type)
    for name, value in response.headers.items():
        context.set_response_header(number, name, value)
