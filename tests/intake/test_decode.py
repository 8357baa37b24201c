import base64
import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from camserve.errors import (
    BadBase64,
    BadImage,
    BadJson,
    ImageTooSmall,
    MissingImage,
    RequestError,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)
from camserve.intake.containers import sniff
from camserve.intake.decode import decode, harden_pillow, memory
from camserve.settings import Limits

LIMITS = Limits()
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


@pytest.fixture(autouse=True)
def hardened():
    harden_pillow()


@pytest.mark.parametrize("kind", KINDS)
def test_every_accepted_format_is_recognised_by_its_first_bytes(encoded, kind):
    data = encoded(32, 24, kind=kind, color=(200, 10, 10))
    picture = decode(data, LIMITS)
    assert sniff(data) == picture.format == kind
    assert (picture.width, picture.height, picture.image.mode) == (32, 24, "RGB")
    assert np.abs(np.asarray(picture.image).mean(axis=(0, 1)) - (200, 10, 10)).max() < 4


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_no_finer_than_needed_and_keeps_its_own_size(coffee, orientation):
    large = Image.open(BytesIO(coffee)).resize((3000, 2000), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    large.save(buffer, "JPEG", quality=90, exif=exif)
    upright = (3000, 2000) if orientation == 1 else (2000, 3000)
    sizes = []

    def enough(width, height):
        sizes.append((width, height))
        return (width // 5, height // 5)

    picture = decode(buffer.getvalue(), LIMITS, enough)
    assert sizes == [upright]
    assert (picture.width, picture.height) == upright
    assert picture.image.size == (upright[0] // 4, upright[1] // 4)
    whole = decode(buffer.getvalue(), LIMITS)
    assert whole.image.size == upright
    apart = np.abs(np.asarray(picture.image, int) - np.asarray(whole.image.resize(picture.image.size, Image.BOX)))
    assert apart.mean() < 1


def test_a_webp_that_would_take_too_much_memory_is_refused_from_its_header(encoded):
    assert decode(encoded(4000, 2000, kind="WEBP", method=0), LIMITS).width == 4000
    with pytest.raises(TooManyPixels, match="the WEBP picture is 5000 x 4000 pixels; the limit is 16000000"):
        decode(encoded(5000, 4000, kind="WEBP", method=0), LIMITS)


@pytest.mark.parametrize("wrap", [str, "data:image/png;base64,{}".format, lambda text: text[:40] + "\r\n" + text[40:]])
def test_base64_text_is_decoded(encoded, wrap):
    text = base64.b64encode(encoded(16, 16)).decode()
    assert decode(wrap(text), LIMITS).width == 16


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (None, MissingImage),
        (b"", MissingImage),
        (bytearray(), MissingImage),
        ("", MissingImage),
        ("data:image/png;base64,", MissingImage),
        (["a", "list"], BadJson),
        (3, BadJson),
        ("not base64!", BadBase64),
        (b"x", UnsupportedFormat),
        (b"<html></html>", UnsupportedFormat),
        (b"%PDF-1.4", UnsupportedFormat),
        (b"II*\x00", UnsupportedFormat),
        (b"\xff\xd8\xff\xe0 and then nothing", BadImage),
        (b"\x89PNG\r\n\x1a\n", BadImage),
        (b"BM", BadImage),
        (b"GIF89a", BadImage),
        (b"RIFF\x00\x00\x00\x00WEBP", BadImage),
    ],
)
def test_what_is_no_picture_is_refused_for_its_own_reason(image, error):
    with pytest.raises(error):
        decode(image, LIMITS)


@pytest.mark.parametrize("kind", ("JPEG", "PNG", "WEBP", "GIF"))
def test_a_truncated_picture_is_refused_at_every_length(kind, coffee):
    buffer = BytesIO()
    Image.open(BytesIO(coffee)).resize((60, 40)).save(buffer, kind)
    data = buffer.getvalue()
    for share in range(1, 19):
        cut = data[: len(data) * share // 20]
        with pytest.raises(RequestError) as caught:
            decode(cut, LIMITS)
        assert 400 <= caught.value.status < 500


def test_size_is_refused_before_anything_is_unpacked(encoded):
    with pytest.raises(TooManyBytes, match="limit is 100"):
        decode(b"\xff" * 101, Limits(max_bytes=100))
    with pytest.raises(TooManyBytes, match="base64"):
        decode("A" * 2000, Limits(max_bytes=100))
    with pytest.raises(TooManyPixels, match="40 x 30"):
        decode(encoded(40, 30), Limits(max_pixels=1000))
    with pytest.raises(TooManyPixels, match="39 a side"):
        decode(encoded(40, 30), Limits(max_side=39))
    with pytest.raises(TooManyPixels, match="times the other"):
        decode(encoded(2000, 8), LIMITS)
    with pytest.raises(ImageTooSmall, match="7 x 30"):
        decode(encoded(7, 30), LIMITS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_picture_waits_for_the_one_before_it(encoded, kind, monkeypatch):
    body = encoded(2000, 2100, kind=kind, mode="L", color=90)
    unpacked = threading.Event()
    load = ImageFile.ImageFile.load

    def seen(self):
        unpacked.set()
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", seen)
    with memory.hold(memory.size):
        waiting = threading.Thread(target=decode, args=(body, LIMITS))
        waiting.start()
        assert not unpacked.wait(0.3)
    waiting.join(20)
    assert unpacked.is_set()


def test_a_bomb_is_refused_from_its_header(encoded):
    bomb = encoded(14_000, 13_000, mode="1")
    assert len(bomb) < 30_000
    with pytest.raises(TooManyPixels):
        decode(bomb, LIMITS)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}], ids=["VP8", "VP8L", "VP8X"])
def test_a_webp_bomb_is_refused_before_pillow_opens_it(monkeypatch, options):
    """To open one is to take two whole pictures of memory, which a worker that keeps its heap writes zeros to."""
    file = BytesIO()
    Image.new("RGB", (1031, 257)).save(file, "WEBP", **options)
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(TooManyPixels, match="1031 x 257"):
        decode(file.getvalue(), Limits(max_pixels=1031 * 257 - 1))


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10, :10] = 255
    stored = Image.fromarray(upright)
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    picture = decode(buffer.getvalue(), LIMITS)
    assert np.array_equal(np.asarray(picture.image), upright)
    assert picture.traits == (["rotated"] if 2 <= orientation <= 8 else [])


@pytest.mark.parametrize(
    ("mode", "color", "expected", "traits"),
    [
        ("1", 1, (255, 255, 255), {"grey"}),
        ("L", 100, (100, 100, 100), {"grey"}),
        ("LA", (100, 0), (255, 255, 255), {"grey", "flattened"}),
        ("LA", (100, 255), (100, 100, 100), {"grey", "flattened"}),
        ("RGB", (10, 20, 30), (10, 20, 30), set()),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30), {"flattened"}),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255), {"flattened"}),
        ("I;16", 257 * 100, (100, 100, 100), {"grey", "deep"}),
    ],
)
def test_every_mode_becomes_the_colour_it_shows(encoded, mode, color, expected, traits):
    shown = decode(encoded(16, 16, mode=mode, color=color), LIMITS)
    assert shown.image.getpixel((8, 8)) == expected
    assert set(shown.traits) == traits


def test_cmyk_and_transparent_palettes_become_the_colour_they_show(encoded):
    cyan = decode(encoded(16, 16, mode="CMYK", kind="JPEG", color=(255, 0, 0, 0)), LIMITS)
    assert np.abs(np.array(cyan.image.getpixel((8, 8))) - (0, 255, 255)).max() < 6
    assert cyan.traits == ["cmyk"]
    clear = Image.new("P", (16, 16), 1)
    clear.putpalette([0, 0, 0, 9, 9, 9])
    buffer = BytesIO()
    clear.save(buffer, "PNG", transparency=1)
    white = decode(buffer.getvalue(), LIMITS)
    assert white.image.getpixel((8, 8)) == (255, 255, 255)
    assert white.traits == ["flattened"]


@pytest.mark.parametrize("kind", ("GIF", "WEBP", "PNG"))
def test_only_the_first_frame_of_an_animation_counts(kind):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    picture = decode(buffer.getvalue(), LIMITS)
    assert picture.traits == ["animated"]
    assert np.abs(np.array(picture.image.getpixel((8, 8))) - (255, 0, 0)).max() < 8
