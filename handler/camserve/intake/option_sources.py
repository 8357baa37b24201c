"""Where the options of a request stand besides its body: path, headers and the Accept header."""

from __future__ import annotations

import re
from collections.abc import Mapping

from camserve.choices import PICTURE_TYPES, TEXT_TYPES
from camserve.errors import BadOption, quote

HEADER_PREFIX = "x-camserve-"


def read_path(path: str) -> dict[str, str]:
    """Return the options of a path such as "target/tabby/top_k/3". BadOption: one has no value."""
    parts = [part for part in path.split("/") if part]
    if len(parts) % 2:
        raise BadOption(f"options in the path come in pairs such as /target/tabby; {quote(parts[-1])} has no value")
    return dict(zip(parts[::2], parts[1::2]))


def read_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the options of headers such as "x-camserve-top-k"; their names are in lower case."""
    return {
        name[len(HEADER_PREFIX) :].replace("-", "_"): value
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX)
    }


def read_accept(accept: str) -> str | None:
    """Return the picture format that an Accept header prefers over JSON, or nothing."""
    ranked: list[tuple[float, str]] = []
    for entry in accept[:1000].lower().split(","):
        media, _, parameters = entry.partition(";")
        found = re.search(r"q=([^;]*)", parameters)
        try:
            quality = float(found[1]) if found else 1.0
        except ValueError:
            quality = 0.0
        if media.strip() in (*PICTURE_TYPES, *TEXT_TYPES):
            ranked.append((quality, media.strip()))
    if not ranked:
        return None
    quality, media = max(ranked, key=lambda entry: entry[0])
    return PICTURE_TYPES.get(media) if quality > 0 else None
