"""TIFF and AVIF, where an archive switches them on: the same limits, and the same refusals."""

import struct
import time
import zlib
from io import BytesIO

import numpy as np
import PIL
import pytest
from PIL import Image, features

from camserve.errors import BadImage, ConfigError, RequestError, TooManyPixels, UnsupportedFormat
from camserve.input_spec import InputSpec
from camserve.intake import opened as opened_module
from camserve.intake.decode import check_decoders, decode, harden_pillow
from camserve.settings import Limits
from input_archives import ask, build_means, encode, ramp, scores

LIMITS = Limits()
EXTRA = InputSpec(extra_formats=("tiff", "avif"))
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow decodes no AVIF")
KINDS = ["TIFF", pytest.param("AVIF", marks=NEEDS_AVIF)]


@pytest.fixture(autouse=True)
def hardened():
    harden_pillow()


@NEEDS_AVIF
def test_an_archive_answers_tiff_and_avif_only_where_it_switches_them_on(build_once):
    zero = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "resize": 24, "crop": 24}
    more = build_once("more", lambda folder: build_means(folder, extra_formats=("tiff", "avif"), **zero))
    bodies = [encode(ramp()), encode(ramp(), "TIFF"), encode(ramp(), "AVIF", quality=100)]
    png, tiff, avif = ask(more, *bodies)
    assert (tiff["input"]["format"], avif["input"]["format"]) == ("TIFF", "AVIF")
    assert scores(tiff) == scores(png)
    assert scores(avif) == pytest.approx(scores(png), abs=0.02)
    for body in bodies[1:]:
        with pytest.raises(UnsupportedFormat, match="not JPEG, PNG, WebP, GIF or BMP;"):
            decode(body, LIMITS)
    (pdf,) = ask(more, b"%PDF-1.4")
    assert "not JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF;" in pdf["error"]["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_first_page_counts(kind):
    buffer = BytesIO()
    Image.new("RGB", (32, 24), "red").save(buffer, kind, save_all=True, append_images=[Image.new("RGB", (32, 24))])
    picture = decode(buffer.getvalue(), LIMITS, spec=EXTRA)
    assert picture.traits == ["animated"]
    assert np.abs(np.array(picture.image.getpixel((8, 8))) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_rotated_picture_is_turned_upright(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode(encode(Image.new("RGB", (32, 24)), kind, exif=exif), LIMITS, spec=EXTRA)
    assert (picture.format, picture.width, picture.height, picture.traits) == (kind, 24, 32, ["rotated"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_limits_hold(kind):
    data = encode(np.zeros((30, 40, 3), np.uint8), kind)
    for limits, error in ((Limits(max_pixels=1000), TooManyPixels), (Limits(max_side=39), TooManyPixels)):
        with pytest.raises(error):
            decode(data, limits, spec=EXTRA)
    for share in range(1, 19):
        with pytest.raises(RequestError):
            decode(data[: len(data) * share // 20], LIMITS, spec=EXTRA)


@NEEDS_AVIF
def test_an_avif_that_would_take_too_much_memory_is_refused(monkeypatch):
    monkeypatch.setitem(opened_module.MOST_PIXELS, "AVIF", 1000)
    with pytest.raises(TooManyPixels, match="the AVIF picture is 40 x 30 pixels; the limit is 1000"):
        decode(encode(np.zeros((30, 40, 3), np.uint8), "AVIF"), LIMITS, spec=EXTRA)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "CMYK", "I;16", "P"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiffs_of_many_kinds_show_their_colour(mode, compression):
    color = Image.fromarray(np.full((16, 16, 3), 255, np.uint8))
    image = Image.new("I;16", (16, 16), 65535) if mode == "I;16" else color.convert(mode)
    picture = decode(encode(image, "TIFF", compression=compression), LIMITS, spec=EXTRA)
    assert picture.image.getpixel((8, 8)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("F", {}, "32 bits a grey value"),
        ("I", {}, "32 bits a grey value"),
        ("RGB", {"compression": "jpeg"}, "compressed by 'jpeg': save it with LZW"),
    ],
)
def test_tiffs_that_could_be_misread_are_refused(mode, options, message):
    with pytest.raises(UnsupportedFormat, match=message):
        decode(encode(Image.new(mode, (16, 16)), "TIFF", **options), LIMITS, spec=EXTRA)


def tiff(tags, *more, order="<"):
    """A TIFF header with tables of (tag, type, count, value)."""
    tables, at = b"", 8
    for table in (tags, *more):
        entries = b"".join(struct.pack(f"{order}HHII", *entry) for entry in table)
        tables += struct.pack(f"{order}H", len(table)) + entries + b"\0" * 4
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at) + tables


SIZE = [(256, 4, 1, 16), (257, 4, 1, 16)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "tags",
    [
        [*SIZE, *[(40_000 + at, 7, 4_000_000, 8) for at in range(20_000)]],  # each names the same megabytes
        [*SIZE, (273, 4, 1_000_000, 8), (279, 4, 1_000_000, 8)],  # a million strips
        [*SIZE, *[(34665, 4, 1, 8)] * 500],  # tables that lead to themselves
    ],
)
def test_a_tiff_that_keeps_the_decoder_busy_is_refused_at_once(tags, order):
    data = tiff(tags, order=order) + b"\0" * 5_000_000
    start = time.perf_counter()
    with pytest.raises(BadImage, match="the TIFF picture is made of more than"):
        decode(data, LIMITS, spec=EXTRA)
    assert time.perf_counter() - start < 2


def tiled(side, tile):
    """A grey TIFF of one deflated tile."""
    packed = zlib.compress(bytes(tile * tile))
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 200), (325, 4, 1, len(packed))]
    return tiff(tags).ljust(200, b"\0") + packed


def test_a_tiff_whose_tile_is_larger_than_a_picture_may_be_is_refused():
    """libtiff unpacks a whole tile: 1.2 GB for a picture of 64 x 64 pixels."""
    assert decode(tiled(64, 64), LIMITS, spec=EXTRA).width == 64
    with pytest.raises(TooManyPixels, match="the TIFF tile is 5008 x 5008 pixels"):
        decode(tiled(64, 5008), LIMITS, spec=EXTRA)


def test_a_tiff_weighs_the_strip_or_tile_that_is_unpacked_too():
    def weigh(data):
        return opened_module.open_picture(data, LIMITS, spec=EXTRA).weight

    assert weigh(tiled(64, 2048)) == 64 * 64 * 5 + 2048 * 2048
    whole = encode(Image.new("RGB", (300, 200)), "TIFF", compression="tiff_lzw", tiffinfo={278: 200})
    assert weigh(whole) == 300 * 200 * (8 + 3)
    assert weigh(encode(Image.new("I;16", (300, 200)), "TIFF", tiffinfo={278: 50})) == 300 * (200 * 8 + 50 * 2)


def test_a_12_bit_tiff_has_the_depth_that_it_names():
    packed = bytes([0x80, 0x08, 0x00]) * 128  # two values of 2048
    tags = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 16), (279, 4, 1, len(packed))]
    picture = decode(tiff(tags).ljust(200, b"\0") + packed, LIMITS, spec=EXTRA)
    assert picture.image.getpixel((0, 0)) == (128, 128, 128)
    assert picture.guessed_depth is None


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_a_16_bit_tiff_may_use_fewer_bits_and_either_byte_order(mode):
    picture = decode(encode(Image.new(mode, (16, 16), 4095), "TIFF"), LIMITS, spec=EXTRA)
    assert picture.image.getpixel((0, 0)) == (255, 255, 255)
    assert picture.guessed_depth == 12


def test_avif_is_refused_at_load_where_pillow_cannot_decode_it(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(ConfigError, match=f"Pillow {PIL.__version__} decodes no AVIF: install Pillow 11.3"):
        check_decoders(EXTRA)
    check_decoders(InputSpec())
    with pytest.raises(ConfigError, match="'heic' is not one of: tiff, avif"):
        InputSpec(extra_formats=("heic",))
