"""The body of a response: an answer, or the error that it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from camserve.client.answers import Answer, read_answer
from camserve.errors import RequestError, printable

CODES = {error.code: error for error in RequestError.__subclasses__()}


def read_reply(status: int, body: bytes, photo: bytes) -> Answer:
    """Return the answer in a response. RequestError: it is a refusal. UnexpectedAnswer: it is neither."""
    block = parse_block(body)
    if status != HTTPStatus.OK or "error" in block:
        raise refusal_of(status, block)
    return read_answer(block, photo)


def refusal_of(status: int, block: Mapping[str, Any]) -> RequestError:
    """Return the error that a response is, with its status, code and request id."""
    inner = block.get("error")
    said: Mapping[str, Any] = (
        inner if isinstance(inner, Mapping) else {**block, "message": inner or block.get("message")}
    )
    code = str(said.get("type") or said.get("code") or "")
    message = said.get("message") or f"the server answers with status {status}"
    error = CODES.get(code, RequestError)(printable(message))
    error.status, error.code, error.request_id = status, code, str(said.get("request_id") or "")
    return error


def parse_block(body: bytes) -> dict[str, Any]:
    """Return the object that JSON holds, an empty one where it holds none."""
    try:
        block = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return block if isinstance(block, dict) else {}
