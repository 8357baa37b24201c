"""From an HTTP request to the row that TorchServe would make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from camserve.asgi.refusals import Refused
from camserve.errors import quote
from camserve.serving.engines.rows import FORM_TYPE, MULTIPART_TYPE

MOST_FIELDS = 100
IN_MEMORY = {"MAX_MEMORY_FILE_SIZE": float("inf")}  # the whole body is, and it is limited


class BodyRoom:
    """The memory for bodies that are being received, of all clients together; used from one event loop."""

    def __init__(self, size: int) -> None:
        """Have room for ``size`` bytes."""
        self._size = size
        self._held = 0

    async def read(self, request: Request, most: int) -> bytes:
        """Return a body. Refused: it has more than ``most`` bytes, or there is no room; the rest is not read."""
        too_large = Refused("too_many_bytes", f"a request may have {most} bytes")
        named = request.headers.get("content-length", "")
        if named.isdecimal() and len(named) < 20 and int(named) > most:
            raise too_large
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                self._held += len(part)
                if size > most:
                    raise too_large
                if self._held > self._size:
                    raise Refused("overloaded", "too many bodies are being received: try again")
                parts.append(part)
            return b"".join(parts)
        finally:
            self._held -= size


def lower_headers(request: Request) -> dict[str, str]:
    """Return a request's headers, names in lower case; of equal ones the last."""
    return {
        name.lower(): value for name, value in request.headers.items() if name.lower() not in ("explain", "url_path")
    }


def fields_of(body: bytes, headers: Mapping[str, str]) -> dict[str, object]:
    """Return the fields of a form, or any other body under "body". Refused: the form cannot be read."""
    kind = headers.get("content-type", "")
    if kind.lower().startswith(MULTIPART_TYPE):
        return {} if headers.get("content-encoding") else _unique(_multipart(body, kind))
    if kind.lower().startswith(FORM_TYPE):
        return _unique(_urlencoded(body))
    return {"body": body}


def _unique(fields: list[tuple[str, bytes]]) -> dict[str, object]:
    names = [name for name, _ in fields]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise Refused("bad_request", f"the form holds {quote(repeated[0])} more than once")
    return dict(fields)


def _urlencoded(body: bytes) -> list[tuple[str, bytes]]:
    """Return the fields of an urlencoded form; of a picture that curl sends as one, none."""
    if not body.isascii():
        return []
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Refused("bad_request", f"a form may have {MOST_FIELDS} fields") from None
    return [(name, value.encode()) for name, value in pairs]


def _multipart(body: bytes, kind: str) -> list[tuple[str, bytes]]:
    _, options = parse_options_header(kind)
    found: list[tuple[str, bytes]] = []

    def keep(name: bytes | None, value: bytes) -> None:
        if len(found) == MOST_FIELDS:
            raise Refused("bad_request", f"a form may have {MOST_FIELDS} fields")
        found.append(((name or b"").decode("utf-8", "replace"), value))

    def on_file(part: Any) -> None:
        part.file_object.seek(0)
        keep(part.field_name, part.file_object.read())

    try:
        parser = FormParser(
            MULTIPART_TYPE,
            lambda field: keep(field.field_name, field.value or b""),
            on_file,
            boundary=options.get(b"boundary"),
            config=IN_MEMORY,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused("bad_request", f"the form cannot be read: {quote(error)}") from None
    return found
