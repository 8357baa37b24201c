"""A handler that is called as TorchServe calls it."""

import base64
from types import SimpleNamespace

import pytest

from as_torchserve import context_of
from camserve.serving.engines.answering import Answering
from camserve.serving.engines.torchserve import TorchServeHandler
from colour_pipeline import build


@pytest.fixture
def handler():
    handler = TorchServeHandler()
    handler._answering = Answering(build())
    return handler


@pytest.fixture
def ask(handler):
    """Hand over rows and headers; return statuses, headers and bodies."""

    def ask(*rows, handle=handler.handle):
        context = context_of([headers for _, headers in rows])
        bodies = handle([row for row, _ in rows], context)
        return [
            SimpleNamespace(
                status=processor._status_code,
                content_type=processor.get_response_header("content-type"),
                headers=processor._response_header,
                body=body,
            )
            for processor, body in zip(context.request_processor, bodies, strict=True)
        ]

    return ask


@pytest.fixture
def colours(encoded):
    return encoded(16, 16, color=(51, 204, 102))


@pytest.fixture
def text(colours):
    return base64.b64encode(colours).decode()
