"""The orientation that a picture file names, read from its own bytes.

Pillow reads every tag of a block to know one of them, and old versions keep what each names: a thousand tags that name
one megabyte take a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from camserve.errors import BadImage
from camserve.intake.containers import (
    START_OF_SCAN,
    count_tags,
    jpeg_segments,
    png_chunks,
    read_tags,
    read_tiff_number,
    riff_chunks,
)

EXIF_MARK, MULTI_PICTURE_MARK = b"Exif\0\0", b"MPF\0"
APP1, APP2 = 0xE1, 0xE2
ORIENTATION = 0x0112
UPRIGHT = 1
TIFF_MARKS = (b"II*\0", b"MM\0*")
LONG = 4  # a type of tags; the usual one of an orientation is SHORT


def read_orientation(kind: str, data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, of a JPEG, PNG or WebP; 1, upright, where it names none."""
    return _orientation(_tags(kind, data, EXIF_MARK))


def check_tags(kind: str, data: bytes) -> None:
    """Refuse a JPEG whose tags name the same bytes over and over: Pillow may read them when it opens the file."""
    marks = (EXIF_MARK, MULTI_PICTURE_MARK) if kind == "JPEG" else ()
    for block in (_tags(kind, data, mark) for mark in marks):
        if block and count_tags(block) is None:
            raise BadImage("the JPEG picture's EXIF tags name the same bytes over and over: save it without EXIF")


def _tags(kind: str, data: bytes, mark: bytes) -> bytes:
    """Return the block of tags that ``mark`` begins, put together: a long one is spread over segments."""
    find = BLOCKS.get(kind)
    blocks = find(data) if find else ()
    return b"".join(block[len(mark) :] for block in blocks if block.startswith(mark))


def _jpeg_blocks(data: bytes) -> Iterator[bytes]:
    for marker, start, end in jpeg_segments(data):
        if marker == START_OF_SCAN:  # Pillow reads no segment behind it
            break
        if marker in (APP1, APP2):
            yield data[start:end]


def _png_blocks(data: bytes) -> Iterator[bytes]:
    for name, start, end in png_chunks(data):
        if name == b"eXIf":
            yield EXIF_MARK + data[start:end].removeprefix(EXIF_MARK)


def _webp_blocks(data: bytes) -> Iterator[bytes]:
    for name, start, end in riff_chunks(data):
        if name == b"EXIF":
            yield EXIF_MARK + data[start:end].removeprefix(EXIF_MARK)


BLOCKS: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {
    "JPEG": _jpeg_blocks,
    "PNG": _png_blocks,
    "WEBP": _webp_blocks,
}


def _orientation(block: bytes) -> int:
    if not block.startswith(TIFF_MARKS):
        return UPRIGHT
    found = UPRIGHT
    for tag, kind, _, at in read_tags(block, read_tiff_number(block, 4, 4)):
        if tag == ORIENTATION:
            found = read_tiff_number(block, at, 4 if kind == LONG else 2)
    return found if 1 <= found <= 8 else UPRIGHT
