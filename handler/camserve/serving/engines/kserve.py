"""JSON bodies of every protocol: one picture, KServe's v1 of many, and v2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from camserve.answer.respond import parse_json, shrink_to_limit, write_json
from camserve.choices import JSON_TYPE
from camserve.serving.engines.envelope import (
    Envelope,
    cut_lists,
    joint_status,
    require_list,
    split_image,
    without_accept,
)
from camserve.serving.engines.v2 import is_v2, open_v2
from camserve.settings import Limits
from camserve.values import RawRequest, Response


def open_body(
    row: RawRequest, body: Mapping[str, object], name: str, version: str, limits: Limits, binary: bytes = b""
) -> Envelope:
    """Take a row's JSON body apart; ``binary`` is what follows it. BadJson: it has not its protocol's shape."""
    if "instances" in body:
        return _open_v1(row, body, limits)
    if is_v2(body):
        return open_v2(row, body, (name, version), limits, binary)
    image, options = split_image(body)
    return Envelope((replace(row, image=image, fields={**row.fields, **options}),), lambda answers: answers[0])


def _open_v1(row: RawRequest, body: Mapping[str, object], limits: Limits) -> Envelope:
    shared = cut_lists({name: value for name, value in body.items() if name not in ("instances", "signature_name")})
    bare = without_accept(row)
    requests = []
    for instance in require_list(body["instances"], "instances", limits.max_instances):
        image, options = split_image(instance if isinstance(instance, Mapping) else {"data": instance})
        requests.append(replace(bare, image=image, fields={**row.fields, **shared, **options}))
    key = "explanations" if row.must_explain else "predictions"

    def join(answers: Sequence[Response]) -> Response:
        bodies = [parse_json(answer.body) for answer in answers]
        body = shrink_to_limit(bodies, lambda bodies: write_json({key: bodies}), limits.max_response_bytes)
        return Response(joint_status(answers), JSON_TYPE, body)

    return Envelope(tuple(requests), join)
