"""What one row of a server holds: requests, and how their answers are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from camserve.errors import BadJson, quote
from camserve.intake.option_values import cut_list
from camserve.values import RawRequest, Response

IMAGE_KEYS = ("data", "image", "body", "b64")


@dataclass(frozen=True)
class Envelope:
    """One row of a server: the requests inside, and how their answers are put together."""

    requests: tuple[RawRequest, ...]
    join: Callable[[Sequence[Response]], Response]


def split_image(fields: Mapping[str, object]) -> tuple[object, dict[str, object]]:
    """Part a body's picture from its options; a picture may be wrapped as {"b64": text}."""
    options = cut_lists(fields)
    images = {key: options.pop(key) for key in IMAGE_KEYS if key in options}
    if len(images) > 1:
        raise BadJson(f"there are pictures in {' and '.join(images)}: send one, under one name")
    image = next(iter(images.values()), None)
    return (image.get("b64") if isinstance(image, Mapping) else image), options


def cut_lists(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields whose lists are cut where they are longer than any option may be."""
    return {name: cut_list(value) for name, value in fields.items()}


def require_list(value: object, name: str, limit: int) -> list[Any]:
    """Return a list of 1 to ``limit`` entries. BadJson: it is none."""
    if not isinstance(value, list) or not 1 <= len(value) <= limit:
        size = f"a list of {len(value)}" if isinstance(value, list) else quote(value)
        raise BadJson(f"'{name}' must be a list of 1 to {limit}, not {size}")
    return value


def without_accept(row: RawRequest) -> RawRequest:
    """A list of answers is JSON, whatever picture type a client would accept."""
    return replace(row, headers={name: value for name, value in row.headers.items() if name != "accept"})


def joint_status(answers: Sequence[Response]) -> int:
    """Return the status of answers together: a refusal's only where every picture was refused."""
    return 200 if any(answer.status == 200 for answer in answers) else answers[0].status
