"""A body that the server did not read: unpacked, and read as JSON, within limits."""

from __future__ import annotations

import gc
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from camserve.errors import BadEncoding, BadJson, TooManyBytes, quote
from camserve.settings import Limits

MAX_DEPTH = 12  # a batch of pixels as nested lists, inside an input of a body of a row, has 9
MOST_CONTAINERS = 1_000_000  # lists and objects; each pixel may be a list
MOST_OBJECTS, MOST_TEXTS = 100_000, 200_000  # 8 bytes of a body may be an object of 230, or a name and its place of 130
BESIDE_PICTURE = 65_536  # bytes of options, names and ids beside a picture
GZIP, ZLIB, RAW = 31, 15, -15  # zlib's numbers of formats
SPACE = " \t\r\n\ufeff"


def body_limit(limits: Limits) -> int:
    """Return how many bytes a body may have that camserve unpacks or reads: the largest picture as base64."""
    return limits.max_bytes * 4 // 3 + BESIDE_PICTURE


def unpack(data: bytes, coding: str, most: int) -> bytes:
    """Return a body without its Content-Encoding; at most ``most`` bytes are ever unpacked.

    BadEncoding: it is of another kind, cut off, or followed by something. TooManyBytes.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return data
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise BadEncoding(f"Content-Encoding {quote(coding)} is not one of: gzip, deflate, identity")
    inflater = zlib.decompressobj(_format(coding, data))
    try:
        unpacked = inflater.decompress(data, most + 1)
    except zlib.error:
        raise BadEncoding(f"Content-Encoding is {coding}, and the body is not") from None
    if len(unpacked) > most:
        raise TooManyBytes(f"the body unpacks to more than {most} bytes")
    if not inflater.eof or inflater.unused_data:
        raise BadEncoding(f"the {coding} body is cut off, or something follows it")
    return unpacked


def _format(coding: str, data: bytes) -> int:
    """Return zlib's number of a format; some clients send deflate without the header that HTTP asks for."""
    if coding != "deflate":
        return GZIP
    has_header = len(data) > 1 and data[0] & 15 == zlib.DEFLATED and (data[0] * 256 + data[1]) % 31 == 0
    return ZLIB if has_header else RAW


def is_json(value: object) -> bool:
    """Whether bytes or a text begin as a JSON object does, which no picture and no base64 does."""
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value[:64]).decode("utf-8", "replace")
    return isinstance(value, str) and value[:64].lstrip(SPACE).startswith("{")


def read_json(value: bytes | str, most: int) -> Mapping[str, Any]:
    """Return the object that a body of JSON holds. BadJson: it is none. TooManyBytes: it is longer than ``most``."""
    if len(value) > most:
        raise TooManyBytes(f"the JSON body has {len(value)} bytes; the limit is {most}")
    try:
        text = (value if isinstance(value, str) else value.decode("utf-8")).lstrip(SPACE)
        _check_counts(text)
        with _without_collector():
            parsed = json.loads(text)
    except RecursionError:
        raise BadJson(f"the JSON is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise BadJson(f"the body begins as JSON does and is not valid JSON: {quote(error)}") from None
    if not isinstance(parsed, dict):
        raise BadJson("the JSON body must be an object")
    check_depth(parsed)
    return parsed


def _check_counts(text: str) -> None:
    """Refuse (TooManyBytes) JSON of very many parts, each of which takes many times its bytes in memory."""
    parts = (
        ("objects", text.count("{"), MOST_OBJECTS),
        ("texts", text.count('"') // 2, MOST_TEXTS),
        ("lists", text.count("["), MOST_CONTAINERS),
    )
    for what, count, most in parts:
        if count > most:
            raise TooManyBytes(f"the JSON body holds more than {most} {what}")


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python's collector away: it visits a million new lists, and all objects of torch, again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_depth(value: Mapping[str, object]) -> None:
    """Refuse what is nested so deep that quoting it would fail (BadJson), or has too many parts (TooManyBytes)."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        entries = chain.from_iterable(outer.values() if isinstance(outer, Mapping) else outer for outer in level)
        level = list(islice((inner for inner in entries if isinstance(inner, (dict, list))), MOST_CONTAINERS + 1))
        if len(level) > MOST_CONTAINERS:
            raise TooManyBytes(f"the JSON body holds more than {MOST_CONTAINERS} lists and objects")
        if not level:
            return
    raise BadJson(f"the JSON is nested deeper than {MAX_DEPTH} levels")
