"""The options of a request in Python's words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict, Union

import numpy as np

from camserve.client.answers import Prediction
from camserve.errors import BadOption, quote
from camserve.labels import BY_INDEX

Name = Union[str, int, Prediction]  # of a class: its label, its index, or what an answer says of it
Names = Union[Name, Sequence[Name]]
Words = Union[str, Sequence[str]]
OF_CLASSES = ("target", "contrast")
TAKEN = ("data", "body")  # form fields in which the photo travels


class RequestOptions(TypedDict, total=False):
    """The options of a request, as README.md lists them."""

    head: str
    explain: bool | str
    target: Names
    contrast: Name
    method: Words
    layer: Words
    channels: str | int | Sequence[int]
    evidence: str
    format: Words
    size: int
    top_k: int
    details: Words
    deadline_ms: int
    compat: str
    palette: str
    opacity: float
    legend: bool
    caption: bool
    box_threshold: float
    context: str


def write_options(options: Mapping[str, object]) -> dict[str, str]:
    """Return form fields; a list becomes a JSON list, since labels may hold commas. None: the archive's default.

    BadOption: a name is that of the photo's own field.
    """
    for name in TAKEN:
        if name in options:
            raise BadOption(f"option {quote(name)} is not one: the photo is the first argument")
    return {name: _write(name, value) for name, value in options.items() if value is not None}


def _write(name: str, value: object) -> str:
    if isinstance(value, (list, tuple)):
        return json.dumps([_write(name, entry) for entry in value])
    if isinstance(value, Prediction):
        return f"{BY_INDEX}{value.index}"
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if name in OF_CLASSES and isinstance(value, (int, np.integer)):
        return f"{BY_INDEX}{value}"
    return str(value)
