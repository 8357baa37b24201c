"""What the bytes of a picture file are made of: its format, and how many parts a decoder would walk over."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import islice

from camserve.errors import BadImage, UnsupportedFormat

MAGIC = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
)
USUAL_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PARTS = 30_000  # chunks, segments or blocks in one file; Pillow walks over them in Python
MAX_SCANS = 32  # of a JPEG; a progressive one has about 10, and each costs a pass over the whole picture
JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not fill, a stuffed byte or a restart
TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
MAX_TAG_BYTES = 4  # that tags name, for each byte of a block: a few broken ones name it whole
TIFF_PLACES = (273, 279, 324, 325)  # tags: offsets and lengths of strips and of tiles
TIFF_TABLES = (34665, 34853, 40965)  # tags that lead to more tags: EXIF, GPS, interoperability
START_OF_SCAN, END_OF_IMAGE = 0xDA, b"\xff\xd9"
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)  # frames of a JPEG, which say its size and its channels
FRAMES = (0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xC9, 0xCB, 0xCD, 0xCF)
WITHOUT_LENGTH = (b"\xff\x01", b"\xff\xd8", END_OF_IMAGE)


def sniff(data: bytes, extra: Collection[str] = ()) -> str:
    """Return the picture format that the first bytes announce.

    UnsupportedFormat: it is none of the usual five, nor one of ``extra``, in lower case.
    """
    kind = _announced(data)
    if kind in USUAL_FORMATS or kind.lower() in extra:
        return kind
    *names, last = "JPEG", "PNG", "WebP", "GIF", "BMP", *(name.upper() for name in extra)
    raise UnsupportedFormat(
        f"the picture is not {', '.join(names)} or {last}; base64 goes into JSON as {{'data': '...'}}"
    )


def _announced(data: bytes) -> str:
    for kind, magic in MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return "AVIF" if data[4:12] in (b"ftypavif", b"ftypavis") else ""


def check_parts(kind: str, data: bytes) -> None:
    """Refuse files whose many small parts would keep Pillow or libjpeg busy for seconds."""
    count = COUNT_PARTS.get(kind)
    if count is not None and count(data) > MAX_PARTS:
        raise BadImage(f"the {kind} picture is made of more than {MAX_PARTS} parts or {MAX_SCANS} scans: save it anew")


def significant_bits(kind: str, data: bytes) -> int | None:
    """Return the bits that a PNG's sBIT chunk names for its first channel; None: it has no such chunk."""
    for name, start, end in png_chunks(data) if kind == "PNG" else ():
        if name == b"IDAT":
            break
        if name == b"sBIT" and start < min(end, len(data)):
            return data[start]
    return None


def has_16_bit_colors(kind: str, data: bytes) -> bool:
    """Whether a picture is a PNG of 16 bits a channel with more channels than grey."""
    return kind == "PNG" and data[24] == 16 and data[25] != 0


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walk over a PNG's chunks: their names, and where their contents start and end in ``data``."""
    at = 8
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at + 8, end
        at = end + 4


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walk over a WebP's chunks, as ``png_chunks`` does."""
    at = 12
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, end
        at = end + end % 2


def webp_size(data: bytes) -> tuple[int, int]:
    """Return the width and height of a WebP in pixels; 0, 0 where its first chunk names none."""
    for name, start, _ in riff_chunks(data):
        head = data[start : start + 10]
        if name == b"VP8X":
            return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
        if name == b"VP8L":
            sides = int.from_bytes(head[1:5], "little")
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        if name == b"VP8 ":
            return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
        break
    return 0, 0


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Walk over a JPEG's segments up to its end: their markers, and where their contents start and end in ``data``."""
    at, has_scans = 2, False
    while found := JPEG_MARKER.search(data, at):
        marker, at = found[0], found.end()
        has_scans |= marker[1] == START_OF_SCAN
        if has_scans and marker == END_OF_IMAGE:
            break
        if marker not in WITHOUT_LENGTH:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        yield marker[1], found.end() + 2, at


def has_many_scans(kind: str, data: bytes) -> bool:
    """Whether a picture is a JPEG whose decoder holds every coefficient until its last scan.

    libjpeg decides it at the first scan: it is progressive, or has not all channels.
    """
    channels = 0
    for marker, start, _ in jpeg_segments(data) if kind == "JPEG" else ():
        if marker in PROGRESSIVE:
            return True
        if marker in FRAMES:
            channels = data[start + 5] if start + 5 < len(data) else 0
        if marker == START_OF_SCAN:
            return start < len(data) and data[start] < channels
    return False


def _count(walk: Callable[[bytes], Iterator[object]], data: bytes) -> int:
    return sum(1 for _ in islice(walk(data), MAX_PARTS + 1))


def _jpeg_parts(data: bytes) -> int:
    """Count segments and stray bytes; too many scans count as too many parts."""
    end, parts, scans = 2, 0, 0
    for marker, start, stop in jpeg_segments(data):
        # Before the first scan Pillow looks at every stray byte; after it libjpeg skips them.
        parts += 1 if scans else 1 + start - 4 - end
        scans += marker == START_OF_SCAN
        if parts > MAX_PARTS or scans > MAX_SCANS:
            return MAX_PARTS + 1
        end = stop
    return parts


def read_tiff_number(data: bytes, at: int, length: int) -> int:
    """Return a number of a TIFF file or of a block of EXIF, in the byte order that it begins with."""
    return int.from_bytes(data[at : at + length], "little" if data[:2] == b"II" else "big")


def read_tags(data: bytes, table: int) -> Iterator[tuple[int, int, int, int]]:
    """Walk over a table of tags: tag, type, number of values, and where the value, or its address, stands."""
    stop = table + 2 + 12 * read_tiff_number(data, table, 2)
    for at in range(table + 2, min(stop, len(data)), 12):
        yield (
            read_tiff_number(data, at, 2),
            read_tiff_number(data, at + 2, 2),
            read_tiff_number(data, at + 4, 4),
            at + 8,
        )


def count_tags(data: bytes) -> int | None:
    """Count the tags of a TIFF file's first page, or of a block of EXIF, and its strips or tiles.

    None: many of them name the same bytes. Pillow reads every tag of a table: many that name the same megabytes would
    take hours, or the memory.
    """
    tables, parts, tag_bytes = [read_tiff_number(data, 4, 4)], 0, 0
    while tables and parts <= MAX_PARTS:
        table = tables.pop()
        parts += 1 + read_tiff_number(data, table, 2)
        for tag, kind, values, at in islice(read_tags(data, table), MAX_PARTS):
            size = values * TIFF_TYPE_BYTES.get(kind, 0)
            tag_bytes += max(0, min(size, len(data) - read_tiff_number(data, at, 4))) if size > 4 else 0
            parts += values if tag in TIFF_PLACES else 0
            tables += [read_tiff_number(data, at, 4)] if tag in TIFF_TABLES else []
    return parts if tag_bytes <= MAX_TAG_BYTES * len(data) else None


def _tiff_parts(data: bytes) -> int:
    parts = count_tags(data)
    return MAX_PARTS + 1 if parts is None else parts


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


COUNT_PARTS: Mapping[str, Callable[[bytes], int]] = {
    "PNG": partial(_count, png_chunks),
    "JPEG": _jpeg_parts,
    "GIF": _gif_blocks,
    "WEBP": partial(_count, riff_chunks),
    "TIFF": _tiff_parts,
}
