"""The sizes that the AV1 data of an AVIF file name.

Decoders take them from there, whatever the file's boxes and Pillow say: one of 64 x 64 pixels may decode 200 million.
AV1 Bitstream and Decoding Process Specification, 5.5; ISO/IEC 14496-12, 8.7 and 8.11.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from camserve.errors import BadImage
from camserve.intake.containers import MAX_PARTS

CONTAINERS = (b"meta", b"moov", b"trak", b"mdia", b"minf", b"stbl")
CHUNKS = {b"stco": 4, b"co64": 8}  # boxes of the places of a track's data, and the bytes of each place
SEQUENCE_HEADER = 1  # a type of open bitstream units
FORBIDDEN, HAS_EXTENSION, HAS_SIZE = 128, 4, 2  # bits of a unit's first byte
MOST_HEADER_BYTES = 512  # of a sequence header up to its frames' size


class FrameSize(NamedTuple):
    """What a sequence header says of its frames, in pixels."""

    width: int
    height: int
    most: int  # pixels of a frame that says its size itself


class _Bits:
    """The bits of some bytes, from the first on; zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """Return the next ``count`` bits as a number."""
        first, last = self._at // 8, (self._at + count + 7) // 8
        number = int.from_bytes(self._data[first:last].ljust(last - first, b"\0"), "big")
        self._at += count
        return number >> (8 * last - self._at) & ((1 << count) - 1)

    def skip_unary(self) -> None:
        """Pass over a number whose length leading zeros say."""
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        self.read(zeros if zeros < 32 else 0)


class _Budget:
    """How many parts and bytes a file may still name."""

    def __init__(self, size: int) -> None:
        self._parts, self._bytes = MAX_PARTS, size

    def spend(self, parts: int, size: int = 0) -> None:
        """Take so much. BadImage: there is not so much left."""
        self._parts, self._bytes = self._parts - parts, self._bytes - size
        if self._parts < 0 or self._bytes < 0:
            raise BadImage("the AVIF picture has too many parts, or names the same bytes over and over: save it anew")


def frame_sizes(data: bytes) -> list[FrameSize]:
    """Return the largest size of each item and track. BadImage: there are too many parts to look at."""
    budget = _Budget(2 * len(data))
    items = [max(_sizes(item, budget), default=None) for item in _items(data, budget)]
    return [size for size in items if size is not None]


def _items(data: bytes, budget: _Budget) -> Iterator[bytes]:
    """Yield the data of every item, and of the first frame of every track."""
    boxes = list(_boxes(data, 0, len(data), budget))
    inner = next((data[start:end] for name, start, end in boxes if name == b"idat"), b"")
    for name, start, end in boxes:
        if name == b"iloc":
            yield from _located(data, inner, data[start:end], budget)
        elif name == b"stbl":
            table = [(name, data[start:end]) for name, start, end in _boxes(data, start, end, budget)]
            yield from _first_samples(data, table, budget)


def _boxes(data: bytes, at: int, stop: int, budget: _Budget) -> Iterator[tuple[bytes, int, int]]:
    """Walk over boxes and those in containers: names, and where their contents start and end."""
    ranges = [(at, stop)]
    while ranges:
        at, stop = ranges.pop()
        while at + 8 <= stop:
            budget.spend(1)
            length, name, head = _number(data, at, 4), data[at + 4 : at + 8], 8
            if length == 1:
                length, head = _number(data, at + 8, 8), 16
            if 0 < length < head:
                break
            end = min(at + length, stop) if length else stop
            yield name, at + head, end
            if name in CONTAINERS:
                ranges.append((at + head + (4 if name == b"meta" else 0), end))
            at = end


def _first_samples(data: bytes, table: Sequence[tuple[bytes, bytes]], budget: _Budget) -> Iterator[bytes]:
    """Yield what a track's sample table names as its first frame."""
    sizes = [_number(box, 4, 4) or _number(box, 12, 4) for name, box in table if name == b"stsz"]
    for name, box in table:
        if name in CHUNKS:
            start = _number(box, 8, CHUNKS[name])
            sample = data[start : start + max(sizes, default=len(data))]
            budget.spend(1, len(sample))
            yield sample


def _located(data: bytes, inner: bytes, box: bytes, budget: _Budget) -> Iterator[bytes]:
    """Yield the items that an item location box names, in ``data`` or in the item data box ``inner``."""
    bits = _Bits(box)
    version = bits.read(8)
    bits.read(24)
    offset_bits, length_bits, base_bits, index_bits = (8 * bits.read(4) for _ in range(4))
    id_bits = 32 if version == 2 else 16
    for _ in range(bits.read(id_bits)):
        budget.spend(1)
        bits.read(id_bits)
        source = inner if version and bits.read(16) & 15 == 1 else data
        bits.read(16)
        base, parts = bits.read(base_bits), []
        for _ in range(bits.read(16)):
            bits.read(index_bits if version else 0)
            start = base + bits.read(offset_bits)
            parts.append(source[start : start + (bits.read(length_bits) or len(source))])
            budget.spend(1, len(parts[-1]))
        yield b"".join(parts)


def _sizes(item: bytes, budget: _Budget) -> Iterator[FrameSize]:
    """Yield what each sequence header of AV1 data says; nothing of other data."""
    at = 0
    while at < len(item) and not item[at] & FORBIDDEN:
        budget.spend(1)
        head, at = item[at], at + (2 if item[at] & HAS_EXTENSION else 1)
        length = len(item) - at
        if head & HAS_SIZE:
            length, at = _read_length(item, at)
        if head >> 3 & 15 == SEQUENCE_HEADER:
            yield _read_sequence_header(_Bits(item[at : at + min(length, MOST_HEADER_BYTES)]))
        at += length


def _read_length(item: bytes, at: int) -> tuple[int, int]:
    """Return a number whose bytes hold 7 bits each, the lowest first, and where it ends."""
    length = 0
    for place, byte in enumerate(item[at : at + 8]):
        length |= (byte & 127) << 7 * place
        if byte < 128:
            return length, at + place + 1
    return length, at + 8


def _number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def _read_sequence_header(bits: _Bits) -> FrameSize:
    bits.read(4)  # profile, still_picture
    is_still = bits.read(1)  # reduced_still_picture_header: its frame has the size that stands here
    if is_still:
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    return FrameSize(width, height, width * height if is_still else 1 << (width_bits + height_bits))


def _skip_operating_points(bits: _Bits) -> None:
    """Pass over what stands before the size: timing, decoder model, operating points."""
    delay_bits = 0
    if bits.read(1):  # timing_info_present_flag
        bits.read(64)
        if bits.read(1):  # equal_picture_interval
            bits.skip_unary()
        if bits.read(1):  # decoder_model_info_present_flag
            delay_bits = bits.read(5) + 1
            bits.read(42)
    has_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # seq_level_idx, from which on a tier follows
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_delay and bits.read(1):
            bits.read(4)
