"""What the bytes of a picture file are made of: its format, and how many parts a decoder would walk over."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from camserve.errors import BadImage, UnsupportedFormat

MAGIC = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
)
MAX_PARTS = 30_000  # chunks, segments or blocks in one file; Pillow walks over them in Python
MAX_SCANS = 32  # of a JPEG; a progressive one has about 10, and each costs a pass over the whole picture
JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not fill, a stuffed byte or a restart
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
WITHOUT_LENGTH = (b"\xff\x01", b"\xff\xd8", END_OF_IMAGE)


def sniff(data: bytes) -> str:
    """Return the picture format that the first bytes announce. UnsupportedFormat: none of ours."""
    for kind, magic in MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    raise UnsupportedFormat("the picture is not JPEG, PNG, WebP, GIF or BMP; base64 goes into JSON as {'data': '...'}")


def check_parts(kind: str, data: bytes) -> None:
    """Refuse files whose many small parts would keep Pillow or libjpeg busy for seconds."""
    count = COUNT_PARTS.get(kind)
    if count is not None and count(data) > MAX_PARTS:
        raise BadImage(f"the {kind} picture is made of more than {MAX_PARTS} parts or {MAX_SCANS} scans: save it anew")


def significant_bits(kind: str, data: bytes) -> int | None:
    """Return the bits that a PNG's sBIT chunk names for its first channel; None: it has no such chunk."""
    at = 8
    while kind == "PNG" and at < len(data) and data[at + 4 : at + 8] != b"IDAT":
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"sBIT" and length:
            return data[at + 8]
        at += 12 + length
    return None


def has_16_bit_colors(kind: str, data: bytes) -> bool:
    """Whether a picture is a PNG of 16 bits a channel with more channels than grey."""
    return kind == "PNG" and data[24] == 16 and data[25] != 0


def _png_chunks(data: bytes) -> int:
    at, chunks = 8, 0
    while at < len(data) and chunks <= MAX_PARTS:
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        chunks += 1
    return chunks


def _jpeg_parts(data: bytes) -> int:
    """Count segments and stray bytes; too many scans count as too many parts."""
    at, parts, scans = 2, 0, 0
    while (found := JPEG_MARKER.search(data, at)) and parts <= MAX_PARTS:
        # Before the first scan Pillow looks at every stray byte; after it libjpeg skips them.
        parts += 1 if scans else 1 + found.start() - at
        scans += found[0] == START_OF_SCAN
        if scans > MAX_SCANS:
            return MAX_PARTS + 1
        if scans and found[0] == END_OF_IMAGE:
            break
        at = found.end()
        if found[0] not in WITHOUT_LENGTH:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return parts


def _gif_blocks(data: bytes) -> int:
    """Count blocks, their sub-blocks and stray bytes."""
    at, blocks = 13 + _gif_table(data[10:11]), 0
    while at < len(data) and blocks <= MAX_PARTS:
        blocks += 1
        kind = data[at : at + 1]
        if kind not in (b"!", b","):
            at += 1
            continue
        at += 2 if kind == b"!" else 11 + _gif_table(data[at + 9 : at + 10])
        while at < len(data) and data[at] and blocks <= MAX_PARTS:
            at += 1 + data[at]
            blocks += 1
        at += 1
    return blocks


def _gif_table(flags: bytes) -> int:
    """Return how many bytes of colours follow these flags."""
    return 3 * (2 << (flags[0] & 7)) if flags and flags[0] & 0x80 else 0


COUNT_PARTS: Mapping[str, Callable[[bytes], int]] = {"PNG": _png_chunks, "JPEG": _jpeg_parts, "GIF": _gif_blocks}
