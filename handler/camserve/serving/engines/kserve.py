"""KServe's v1 and v2 bodies: several pictures in one row, answered in the protocol's own shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from camserve.answer.respond import parse_json, shrink_to_limit, write_json
from camserve.choices import JSON_TYPE
from camserve.errors import BadJson, quote
from camserve.settings import Limits
from camserve.values import RawRequest, Response

IMAGE_KEYS = ("data", "image", "body", "b64")
MAX_ID = 256  # characters of a v2 body's own id, which the answer repeats


@dataclass(frozen=True)
class Envelope:
    """One row of a server: the requests inside, and how their answers are put together."""

    requests: tuple[RawRequest, ...]
    join: Callable[[Sequence[Response]], Response]


def open_body(row: RawRequest, body: Mapping[str, object], name: str, version: str, limits: Limits) -> Envelope:
    """Take a row's JSON body apart. BadJson: it has the protocol's keys but not its shape."""
    if "instances" in body:
        return _v1(row, body, limits)
    if "inputs" in body:
        return _v2(row, body, name, version, limits)
    image, options = split_image(body)
    return Envelope((replace(row, image=image, fields={**row.fields, **options}),), lambda answers: answers[0])


def split_image(fields: Mapping[str, object]) -> tuple[object, dict[str, object]]:
    """Part a body's picture from its options; a picture may be wrapped as {"b64": text}."""
    options = dict(fields)
    images = {key: options.pop(key) for key in IMAGE_KEYS if key in options}
    if len(images) > 1:
        raise BadJson(f"there are pictures in {' and '.join(images)}: send one, under one name")
    image = next(iter(images.values()), None)
    return (image.get("b64") if isinstance(image, Mapping) else image), options


def _v1(row: RawRequest, body: Mapping[str, object], limits: Limits) -> Envelope:
    shared = {name: value for name, value in body.items() if name not in ("instances", "signature_name")}
    bare = _without_accept(row)
    requests = []
    for instance in _some(body["instances"], "instances", limits.max_instances):
        image, options = split_image(instance if isinstance(instance, Mapping) else {"data": instance})
        requests.append(replace(bare, image=image, fields={**row.fields, **shared, **options}))
    key = "explanations" if row.must_explain else "predictions"
    return Envelope(
        tuple(requests), lambda answers: _joined(answers, lambda bodies: {key: bodies}, limits.max_response_bytes)
    )


def _v2(row: RawRequest, body: Mapping[str, object], name: str, version: str, limits: Limits) -> Envelope:
    bare = _without_accept(row)
    requests: list[RawRequest] = []
    for tensor in _some(body["inputs"], "inputs", limits.max_instances):
        if not isinstance(tensor, Mapping) or tensor.get("datatype") != "BYTES":
            raise BadJson("each of 'inputs' must be an object of datatype BYTES whose data are base64 pictures")
        options = {**row.fields, **_parameters(body), **_parameters(tensor)}
        data = _some(tensor.get("data"), "inputs[].data", limits.max_instances)
        requests += [replace(bare, image=image, fields=options) for image in data]
    if len(requests) > limits.max_instances:
        raise BadJson(f"'inputs' hold {len(requests)} pictures; the limit is {limits.max_instances}")
    identity = body.get("id", "")
    if not isinstance(identity, str) or len(identity) > MAX_ID:
        raise BadJson(f"'id' must be a text of at most {MAX_ID} characters")
    head = {"model_name": name, "model_version": version, "id": identity}

    def outputs(bodies: Sequence[Any]) -> dict[str, Any]:
        data = [write_json(body).decode() for body in bodies]
        return {**head, "outputs": [{"name": "answers", "datatype": "BYTES", "shape": [len(data)], "data": data}]}

    return Envelope(tuple(requests), lambda answers: _joined(answers, outputs, limits.max_response_bytes))


def _parameters(block: Mapping[str, object]) -> dict[str, object]:
    found = block.get("parameters", {})
    if not isinstance(found, Mapping):
        raise BadJson("'parameters' must be an object of options")
    return {name: value for name, value in found.items() if name not in ("content_type", "binary_data_output")}


def _some(value: object, name: str, limit: int) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= limit:
        size = f"a list of {len(value)}" if isinstance(value, list) else quote(value)
        raise BadJson(f"'{name}' must be a list of 1 to {limit}, not {size}")
    return value


def _without_accept(row: RawRequest) -> RawRequest:
    """A list of answers is JSON, whatever picture type a client would accept."""
    return replace(row, headers={name: value for name, value in row.headers.items() if name != "accept"})


def _joined(answers: Sequence[Response], shape: Callable[[Sequence[Any]], dict[str, Any]], limit: int) -> Response:
    """Put answers together; the status is a refusal's only where every picture was refused."""
    status = 200 if any(answer.status == 200 for answer in answers) else answers[0].status
    return Response(status, JSON_TYPE, shrink_to_limit([parse_json(answer.body) for answer in answers], shape, limit))
