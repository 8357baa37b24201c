"""What a client sent, put together again from what TorchServe made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from camserve.choices import JSON_TYPE
from camserve.errors import BadJson, MissingImage, quote
from camserve.intake.body import body_limit, check_depth, is_json, read_json, unpack
from camserve.serving.engines.envelope import split_image
from camserve.serving.engines.v2 import LENGTH_HEADER
from camserve.settings import Limits

FORM_TYPE = "application/x-www-form-urlencoded"
MULTIPART_TYPE = "multipart/form-data"
ROUTE_FIELD = "model_name"  # of /invocations, which hands its own parameter on
PROTOCOL_KEYS = ("instances", "inputs")  # of a body that a part of a form holds
LOST_BODY = (
    "the body was lost: curl -d and --data-binary without a content type send a form; use curl -T photo.jpg URL, or "
    "add -H 'Content-Type: application/octet-stream' for a picture, -H 'Content-Type: application/json' for JSON"
)
LOST_JSON = (
    "the JSON was sent as a form, and the server has cut it up: add -H 'Content-Type: application/json', or use "
    "curl -T body.json URL"
)
LOST_FORM = "the form was lost: it is not read with a Content-Encoding; send it as it is, or the picture alone as body"


@dataclass(frozen=True)
class SentRow:
    """One row: a JSON body and what follows it, or a picture; and options."""

    image: object
    options: Mapping[str, object]
    body: Mapping[str, object] | None = None
    binary: bytes = b""


def read_row(row: Mapping[str, object], headers: Mapping[str, str], limits: Limits) -> SentRow:
    """Return what a row holds. ``headers`` have lower-case names.

    BadJson, BadEncoding, TooManyBytes; MissingImage: the server has lost the body, and the message says why.
    """
    fields = {name: value for name, value in row.items() if name != ROUTE_FIELD}
    check_depth(fields)
    kind = headers.get("content-type", "").lower()
    if kind.startswith(FORM_TYPE):
        return _read_form(fields)
    if coding := headers.get("content-encoding"):
        if isinstance(body := fields.get("body"), (bytes, bytearray)):
            fields["body"] = unpack(bytes(body), coding, body_limit(limits))
        elif kind.startswith(MULTIPART_TYPE) and not fields:
            raise MissingImage(LOST_FORM)
    return _read_body(fields, headers, limits)


def _read_form(fields: dict[str, object]) -> SentRow:
    """Read an urlencoded form: its picture is base64, in which an unquoted plus has become a space."""
    if not fields:
        raise MissingImage(LOST_BODY)
    if any(is_json(name) for name in fields):
        raise MissingImage(LOST_JSON)
    image, options = split_image(fields)
    if isinstance(image, (bytes, bytearray)):
        image = image.decode("ascii", "replace").strip().replace(" ", "+")
    return SentRow(image, options)


def _read_body(fields: dict[str, object], headers: Mapping[str, str], limits: Limits) -> SentRow:
    binary = b""
    length = headers.get(LENGTH_HEADER.lower())
    if length is not None and isinstance(body := fields.get("body"), (bytes, bytearray)):
        fields["body"], binary = _split_at(bytes(body), length)
    for name in ("body", "data"):
        value = fields.get(name)
        if is_json(value):
            assert isinstance(value, (str, bytes, bytearray))
            value = read_json(value if isinstance(value, str) else bytes(value), body_limit(limits))
        if isinstance(value, Mapping) and (name == "body" or any(key in value for key in PROTOCOL_KEYS)):
            del fields[name]
            image, options = split_image(fields)
            return SentRow(image, options, value, binary)
    if length is not None and binary:
        raise BadJson(f"{LENGTH_HEADER}: no JSON object stands before the binary data")
    if isinstance(fields.get("body"), (bytes, bytearray)) and headers.get("content-type", "").startswith(JSON_TYPE):
        raise BadJson("the body claims to be JSON and is not")
    image, options = split_image(fields)
    return SentRow(image, options)


def _split_at(body: bytes, length: str) -> tuple[bytes, bytes]:
    if not length.isdecimal() or len(length) > 10 or int(length) > len(body):
        raise BadJson(f"{LENGTH_HEADER} is {quote(length)}, and the body has {len(body)} bytes")
    return body[: int(length)], body[int(length) :]
