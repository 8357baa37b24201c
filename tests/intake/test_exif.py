"""The orientation is read from a file's own bytes, whatever else its tags hold."""

import tracemalloc
from io import BytesIO

import pytest
from PIL import Image

import hostile
from camserve.errors import BadImage
from camserve.intake.decode import decode, harden_pillow
from camserve.intake.exif import read_orientation
from camserve.settings import Limits

LIMITS = Limits()
KINDS = ("JPEG", "PNG", "WEBP")


@pytest.fixture(autouse=True)
def hardened():
    harden_pillow()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_what_pillow_reads(kind, orientation):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    data = hostile.encode(Image.new("RGB", (40, 20)), kind, exif=exif)
    assert read_orientation(kind, data) == Image.open(BytesIO(data)).getexif()[0x0112] == orientation
    picture = decode(data, LIMITS)
    assert (picture.width, picture.height) == ((20, 40) if orientation >= 5 else (40, 20))
    assert picture.image.size == (picture.width, picture.height)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_without_one_is_upright(kind):
    data = hostile.encode(Image.new("RGB", (40, 20)), kind)
    assert read_orientation(kind, data) == 1
    assert decode(data, LIMITS).traits == []


def test_a_tag_behind_the_pixels_of_a_png_counts():
    data = hostile.encode(Image.new("RGB", (40, 20)), "PNG")
    late = data[:-12] + hostile.chunk(b"eXIf", hostile.shared_tags(0, 0)) + data[-12:]
    assert (decode(late, LIMITS).width, decode(late, LIMITS).height) == (20, 40)


@pytest.mark.parametrize("order", "<>")
def test_tags_that_share_megabytes_cost_nothing(order):
    """Old versions of Pillow keep what each of them names: 1.9 GB for these."""
    data = hostile.png(hostile.chunk(b"eXIf", hostile.shared_tags(1_000, 2_000_000, order)), size=(40, 20))
    tracemalloc.start()
    try:
        picture = decode(data, LIMITS)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert picture.traits == ["rotated"]
    assert most < 5 * len(data)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of a corrupt block
@pytest.mark.parametrize("mark", [b"Exif\0\0", b"MPF\0"])
def test_a_jpeg_whose_tags_share_bytes_is_refused_before_pillow_reads_them(mark):
    marker = 0xE1 if mark.startswith(b"Exif") else 0xE2
    fine = hostile.jpeg(hostile.segment(marker, mark + hostile.shared_tags(3, 30_000)))
    assert decode(fine, LIMITS).width == 32
    with pytest.raises(BadImage, match="without EXIF"):
        decode(hostile.jpeg(hostile.segment(marker, mark + hostile.shared_tags(2_000, 30_000))), LIMITS)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of a corrupt block
@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",  # an orientation of 99
        b"not tags at all",
    ],
)
def test_broken_tags_mean_upright(block):
    assert read_orientation("PNG", hostile.png(hostile.chunk(b"eXIf", block))) == 1
    assert decode(hostile.jpeg(hostile.segment(0xE1, b"Exif\0\0" + block)), LIMITS).width == 32
