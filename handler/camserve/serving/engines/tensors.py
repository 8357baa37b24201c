"""Tensors of the Open Inference Protocol: pictures in, numbers and texts out, as JSON or in binary."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from camserve.answer.respond import encode_text
from camserve.errors import BadJson, TooManyBytes, TooManyPixels, quote
from camserve.serving.engines.envelope import require_list
from camserve.settings import Limits

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
CONTAINERS = {"L": "BMP", "RGB": "BMP", "RGBA": "PNG"}  # which lose nothing; BMP takes no time
MOST_SIDES = 4  # of a shape
BINARY_TYPES = {"FP32": "<f4", "INT64": "<i8"}
LENGTH = struct.Struct("<I")  # before each element of datatype BYTES


class BinaryData:
    """What follows the JSON of a body, taken from piece by piece."""

    def __init__(self, data: bytes) -> None:
        """Hold all of it."""
        self._data, self._start = data, 0

    def take(self, size: object) -> bytes:
        """Return the next ``size`` bytes. BadJson: there are fewer."""
        left = len(self._data) - self._start
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= left:
            raise BadJson(f"'binary_data_size' is {quote(size)}, and {left} bytes of binary data are left")
        self._start += size
        return self._data[self._start - size : self._start]

    def check_end(self) -> None:
        """Refuse (BadJson) data that belong to no input."""
        if self._start != len(self._data):
            raise BadJson(f"{len(self._data) - self._start} bytes of binary data belong to no input")


def read_pictures(tensor: Mapping[str, object], size: object, binary: BinaryData, limits: Limits) -> list[object]:
    """Return the pictures of an input: as they came where it is BYTES, else encoded from its pixels.

    ``size`` is that of its part of the binary data; None: the JSON has them.
    """
    name, shape = quote(tensor.get("name", "")), _shape(tensor)
    raw = None if size is None else binary.take(size)
    if tensor.get("datatype") == "BYTES":
        texts = _flat(tensor.get("data"), limits.max_instances) if raw is None else list(_split(raw, limits))
        if shape is not None and math.prod(shape) != len(texts):
            raise BadJson(f"input {name}: 'shape' {shape} is not that of its data: write [{len(texts)}]")
        return texts
    if tensor.get("datatype") != "UINT8":
        raise BadJson(
            f"input {name}: 'datatype' must be BYTES (encoded pictures; base64 in JSON) or UINT8 (pixels of shape "
            f"[H, W, C] or [N, H, W, C]), not {quote(tensor.get('datatype'))}"
        )
    return _encode_pixels(name, shape, raw, tensor.get("data"), limits)


def _shape(tensor: Mapping[str, object]) -> list[int] | None:
    shape = tensor.get("shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) > MOST_SIDES or not all(map(_is_side, shape)):
        raise BadJson(f"'shape' must be a list of at most {MOST_SIDES} whole numbers, not {quote(shape)}")
    return list(shape)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _flat(data: object, limit: int) -> list[object]:
    """Return the pictures of a list, in which each may stand in a list of its own."""
    entries = [entry if isinstance(entry, list) else [entry] for entry in require_list(data, "inputs[].data", limit)]
    flat: list[object] = list(chain.from_iterable(entries))
    return require_list(flat, "inputs[].data", limit)


def _split(raw: bytes, limits: Limits) -> Iterator[object]:
    start, count = 0, 0
    while start < len(raw):
        if count == limits.max_instances:
            raise BadJson(f"an input holds more than {limits.max_instances} pictures")
        begin = start + LENGTH.size
        end = begin + LENGTH.unpack_from(raw, start)[0] if begin <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise BadJson("binary data of datatype BYTES must be elements that each begin with their length")
        yield raw[begin:end]
        start, count = end, count + 1


def _encode_pixels(name: str, shape: list[int] | None, raw: bytes | None, data: object, limits: Limits) -> list[object]:
    if shape is None or len(shape) not in (3, 4) or shape[-1] not in MODES:
        raise BadJson(
            f"input {name}: pixels must have the shape [H, W, C] or [N, H, W, C] with 1, 3 or 4 channels, not {shape}"
        )
    *batch, height, width, channels = shape
    count = batch[0] if batch else 1
    if not 1 <= count <= limits.max_instances:
        raise BadJson(f"input {name}: [N, H, W, C] holds {count} pictures; 1 to {limits.max_instances} are possible")
    if width < 1 or height < 1 or max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise TooManyPixels(f"input {name}: pictures of {width} x {height} pixels are outside the limits")
    if math.prod(shape) > limits.max_bytes:
        raise TooManyBytes(f"input {name} has {math.prod(shape)} bytes; the limit is {limits.max_bytes}")
    values = _bytes_of(data, name) if raw is None else raw
    if len(values) != math.prod(shape):
        raise BadJson(f"input {name}: 'shape' {shape} is not that of its {len(values)} values")
    pixels = np.frombuffer(values, np.uint8).reshape(count, height, width, channels)
    return [_encode(picture, MODES[channels]) for picture in pixels]


def _bytes_of(data: object, name: str) -> bytes:
    """Return nested lists of whole numbers 0 to 255 as bytes. BadJson: they are none."""
    if not isinstance(data, list):
        raise BadJson(f"input {name}: 'data' must be a list of numbers")
    values: list[Any] = data
    while values and all(isinstance(entry, list) for entry in values):
        values = list(chain.from_iterable(values))
    try:
        return bytes(values)
    except (TypeError, ValueError):
        raise BadJson(f"input {name}: values of datatype UINT8 are whole numbers from 0 to 255") from None


def _encode(pixels: np.ndarray, mode: str) -> bytes:
    squeezed = pixels[..., 0] if mode == "L" else pixels
    buffer = BytesIO()
    Image.fromarray(squeezed).save(buffer, CONTAINERS[mode], **({"compress_level": 0} if mode == "RGBA" else {}))
    return buffer.getvalue()


@dataclass(frozen=True)
class Tensor:
    """One output. Numbers that are not there are NaN, of INT64 -1, and texts empty."""

    name: str
    datatype: str  # FP32, INT64 or BYTES
    shape: tuple[int, ...]
    values: np.ndarray | Sequence[str]  # flat where texts

    def to_json(self) -> dict[str, Any]:
        """Return it as the protocol's JSON; NaN, which JSON has not, is null."""
        return {**self._head, "data": [None if value != value else value for value in self._list]}

    def to_binary(self) -> tuple[dict[str, Any], bytes]:
        """Return what the JSON says of it, and its bytes."""
        if isinstance(self.values, np.ndarray):
            data = self.values.astype(BINARY_TYPES[self.datatype]).tobytes()
        else:
            data = b"".join(LENGTH.pack(len(text)) + text for text in map(encode_text, self.values))
        return {**self._head, "parameters": {"binary_data_size": len(data)}}, data

    @property
    def _head(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    @property
    def _list(self) -> Sequence[Any]:
        return self.values.ravel().tolist() if isinstance(self.values, np.ndarray) else self.values
