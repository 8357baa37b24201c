"""What AVIF files say of themselves, and what their decoder would unpack."""

import random
import struct
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, features

from camserve.errors import BadImage, TooManyPixels
from camserve.input_spec import InputSpec
from camserve.intake.avif import FrameSize, frame_sizes
from camserve.intake.decode import decode
from camserve.settings import Limits
from input_archives import encode

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow encodes no AVIF")
EXTRA = InputSpec(extra_formats=("avif",))
FEW = Limits(max_pixels=50_000)


def avif(width, height, mode="RGB", **options):
    return encode(Image.new(mode, (width, height), (120, 90, 60, 90)[: len(mode)]), "AVIF", speed=10, **options)


def lying(data, width, height):
    """Write another size into the boxes, which Pillow reads; the AV1 data keep theirs."""
    changed = bytearray(data)
    at = changed.find(b"ispe")
    while at >= 0:
        changed[at + 8 : at + 16] = struct.pack(">II", width, height)
        at = changed.find(b"ispe", at + 4)
    return bytes(changed)


def box(name, body):
    return struct.pack(">I", 8 + len(body)) + name + body


def located(*items):
    """A file whose items are of such extents, each an offset and a length."""
    body = bytes(4) + b"\x44\x00" + struct.pack(">H", len(items))
    for number, extents in enumerate(items):
        body += struct.pack(">HHH", number + 1, 0, len(extents)) + b"".join(struct.pack(">II", *one) for one in extents)
    return box(b"meta", bytes(4) + box(b"iloc", body))


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({}, 1),
        ({"mode": "RGBA"}, 2),
        ({"quality": 100, "subsampling": "4:4:4", "xmp": b"<x:xmpmeta/>"}, 1),
        ({"save_all": True, "append_images": [Image.new("RGB", (300, 200), "red")]}, 2),
    ],
)
def test_the_size_stands_in_the_data_of_every_item_and_track(options, frames):
    data = avif(300, 200, **options)
    assert [(size.width, size.height) for size in frame_sizes(data)] == [(300, 200)] * frames
    picture = decode(data, Limits(), spec=EXTRA)
    assert (picture.width, picture.height) == (300, 200)


def test_data_that_unpack_to_more_than_the_boxes_say_are_refused():
    """The decoder unpacks the data's size, and scales it: 64 million pixels for a picture of 64 x 64."""
    data = lying(avif(300, 200), 64, 64)
    with pytest.raises(TooManyPixels, match="the AVIF picture is 300 x 200 pixels; the limit is 50000"):
        decode(data, FEW, spec=EXTRA)
    honest = decode(avif(200, 200), FEW, spec=EXTRA)
    assert np.asarray(honest.image).shape == (200, 200, 3)


def test_a_second_header_behind_the_first_counts():
    small, large = (avif(*size)[avif(*size).index(b"mdat") + 4 :] for size in ((64, 64), (300, 200)))
    start = len(located([(0, 0)]))
    data = located([(start, len(small + large))]) + small + large
    assert [size[:2] for size in frame_sizes(data)] == [(300, 200)]


def test_many_items_within_the_limit_are_refused_together():
    whole = avif(200, 200)
    item = whole[whole.index(b"mdat") + 4 :]
    kind = box(b"ftyp", b"avif" + bytes(4))
    start = len(kind + located(*[[(0, 0)]] * 6))
    data = kind + located(*[[(start, len(item))]] * 2, *[[(start + len(item), len(item))]] * 4) + item * 6
    assert len(frame_sizes(data)) == 6
    with pytest.raises(TooManyPixels, match="may unpack to more than 200000 pixels"):
        decode(data, FEW, spec=EXTRA)


def test_a_frame_that_may_say_its_own_size_counts_as_the_largest_that_it_can_say():
    (_, track) = frame_sizes(avif(300, 200, save_all=True, append_images=[Image.new("RGB", (300, 200), "red")]))
    assert track == FrameSize(300, 200, 2 ** (9 + 8))


@pytest.mark.parametrize("data", [located(*[[(0, 0)] * 9] * 9), located(*[[]] * 40_000), box(b"free", b"") * 100_000])
def test_files_of_very_many_parts_or_of_the_same_bytes_are_refused_at_once(data):
    with pytest.raises(BadImage, match="too many parts"):
        frame_sizes(data)


def test_any_bytes_are_read_or_refused():
    sound, source = avif(300, 200, save_all=True, append_images=[Image.new("RGB", (300, 200))]), random.Random(1)
    for number in range(500):
        data = bytearray(sound[: source.randrange(len(sound))] if number % 3 == 0 else sound)
        for _ in range(min(len(data), 6)):
            data[source.randrange(len(data))] = source.choice([0, 255, source.randrange(256)])
        with suppress(BadImage):
            assert all(size.width > 0 and size.height > 0 for size in frame_sizes(bytes(data)))
