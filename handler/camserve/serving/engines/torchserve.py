"""TorchServe's rows, headers and statuses; nothing else knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from camserve.errors import ConfigError
from camserve.monitor import Recorder
from camserve.serving.engines.answering import Answering, ReceivedRow, load_worker, recorders_into
from camserve.serving.engines.metrics import HandlerTime, TorchServeSink
from camserve.serving.engines.service_envelopes import step_around_envelopes
from camserve.serving.load import device_of
from camserve.serving.pipeline import Pipeline
from camserve.values import Response

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

    _answering: Answering

    def __init__(self) -> None:
        """Come into being before TorchServe makes its envelope."""
        step_around_envelopes()

    def initialize(self, context: Any) -> None:
        """Load the unpacked archive. RuntimeError, which TorchServe reports: one line says what is wrong."""
        properties, config = context.system_properties, context.model_yaml_config or {}
        model = context.manifest["model"]
        if config.get("asyncCommunication"):
            raise RuntimeError(f"camserve: {NO_ASYNC}")
        try:
            pipeline = load_worker(
                Path(properties["model_dir"]),
                config,
                model["modelName"],
                model["modelVersion"],
                device_of(properties.get("gpu_id")),
                int(properties.get("batch_size") or 1),
            )
        except ConfigError as error:
            raise RuntimeError(f"camserve: {error}") from None
        pipeline.monitor.report_to(*_recorders(pipeline, context))
        self._answering = Answering(pipeline)

    def handle(self, data: Sequence[Mapping[str, object]], context: Any) -> list[bytes]:
        """Answer every row of a batch with its own status and content type; never raises."""
        responses = self._answering.answer([_received(number, row, context) for number, row in enumerate(data)])
        for number, response in enumerate(responses):
            _send(response, number, context)
        return [response.body for response in responses]


def _received(number: int, row: Mapping[str, object], context: Any) -> ReceivedRow:
    headers = plain_headers(context.get_all_request_header(number))
    return ReceivedRow(row, headers, context.get_request_id(number) or "", is_describe_call(row, headers))


def plain_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Return the request's own headers, names in lower case; TorchServe mixes those of form parts in, as dicts."""
    return {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}


def is_describe_call(row: Mapping[str, object], headers: Mapping[str, str]) -> bool:
    """Whether this is the management side asking for the model description, and no client that sends its header.

    TorchServe gives every request of a client a body, a content type or the header ``explain``.
    """
    return headers.get("describe") == "True" and not row and not {"explain", "content-type"} & set(headers)


def _recorders(pipeline: Pipeline, context: Any) -> list[Recorder]:
    name = context.metrics.model_name or pipeline.model.name
    recorders = recorders_into(TorchServeSink(context.metrics, name, pipeline.model.version), pipeline)
    enabled = pipeline.settings.monitoring.enabled
    return [*recorders, HandlerTime(context.metrics, name)] if enabled else recorders


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
