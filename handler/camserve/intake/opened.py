"""From a caller's bytes to a picture whose header is read and within the limits: the cheap refusals."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

from PIL import Image, ImageFile, TiffImagePlugin

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
    quote,
)
from camserve.input_spec import InputSpec
from camserve.intake.avif import FrameSize, frame_sizes
from camserve.intake.containers import check_parts, has_many_scans, sniff, webp_size
from camserve.intake.exif import UPRIGHT, check_tags, read_orientation
from camserve.settings import Limits

HOW_TO_SEND = (
    "send the picture as the body (curl -T photo.jpg URL) or as a form field (curl -F data=@photo.jpg URL); "
    "a browser that opens /predictions/MODEL gets a page to try it"
)

MAX_ASPECT = 100  # longer side / shorter side
# Each takes 16 bytes while a WebP is decoded, about as many in an AVIF, and there is no smaller way.
MOST_PIXELS = {"WEBP": 16_000_000, "AVIF": 16_000_000}
BYTES_OF_DECODERS = {"WEBP": 16, "AVIF": 16}
BYTES_OF_MODES = {"1": 1, "L": 1, "P": 1}  # of a pixel in Pillow's memory; 4 in any other
BYTES_OF_RGB = 4
BYTES_OF_COEFFICIENT = 2  # a JPEG's, of which each pixel of each channel has one
TIFF_CODECS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "group3", "group4", "tiff_ccitt")
TIFF_BITS, TIFF_STRIP_ROWS, TIFF_TILE_SIDES = 258, 278, (322, 323)  # tags
MOST_FRAMES = 4  # times the pixels of an AVIF: its first frame stands in it as an item and in a track, each with alpha
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height

Enough = Callable[[int, int], tuple[int, int]]
USUAL = InputSpec()


def whole(width: int, height: int) -> tuple[int, int]:
    """Ask for every pixel of a picture."""
    return width, height


@dataclass(frozen=True)
class OpenedPicture:
    """What the header of a picture says, which was found to be within the limits; nothing is decoded yet.

    Pillow's own object would hold on to a decoder, a WebP's to two whole pictures.
    """

    kind: str
    data: bytes
    mode: str  # Pillow's
    orientation: int  # that of EXIF; 1 where Pillow alone knows it
    width: int  # of the upload, in pixels after EXIF rotation
    height: int
    wanted: tuple[int, int] | None  # of a JPEG: how many pixels across and down are worth decoding, before rotation
    pixels: int  # that will be decoded
    unpacked: int = 0  # bytes of a TIFF's strip or tile, which its decoder holds beside the picture

    @cached_property  # whether there are many scans takes a walk over the file
    def weight(self) -> int:
        """How many bytes decoding will hold at most, the picture's RGB copy included."""
        own = BYTES_OF_MODES.get(self.mode, 4)
        turned = 0 if self.orientation == UPRIGHT else own
        held = self.pixels * (BYTES_OF_DECODERS.get(self.kind, own + turned) + BYTES_OF_RGB) + self.unpacked
        if not has_many_scans(self.kind, self.data):
            return held
        # Every coefficient of the upload, at whatever size it is decoded.
        return held + self.width * self.height * Image.getmodebands(self.mode) * BYTES_OF_COEFFICIENT

    def open(self) -> ImageFile.ImageFile:
        """Return the picture as Pillow opens it, set to the size at which it is worth decoding."""
        opened = Image.open(BytesIO(self.data), formats=[self.kind])
        if self.wanted is not None:
            opened.draft(None, self.wanted)
        return opened


def open_picture(image: object, limits: Limits, enough: Enough = whole, spec: InputSpec = USUAL) -> OpenedPicture:
    """Read the header of a picture: bytes, or their base64 text.

    ``enough`` says, for an upright width and height, how many pixels across and down are worth decoding: a larger
    JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, but never smaller than that.
    MissingImage, BadBase64, TooManyBytes, UnsupportedFormat, TooManyPixels, ImageTooSmall, BadImage.
    """
    data = _as_bytes(image, limits)
    kind = sniff(data, spec.extra_formats)
    check_parts(kind, data)
    check_tags(kind, data)
    if kind == "WEBP":
        _check_most(kind, *webp_size(data), limits)  # Pillow takes the memory of two whole pictures to open one
    if kind == "AVIF":
        _check_frames(frame_sizes(data), limits)
    with refusals(kind), Image.open(BytesIO(data), formats=[kind]) as opened:
        _check_size(kind, opened.width, opened.height, limits)
        _check_codec(kind, opened)
        unpacked = _check_strips(opened, limits) if isinstance(opened, TiffImagePlugin.TiffImageFile) else 0
        orientation = read_orientation(kind, data)
        sideways = orientation in SIDEWAYS
        width, height = _turned(opened.size) if sideways else opened.size
        wanted = None
        if kind == "JPEG":
            needed = enough(width, height)
            wanted = _turned(needed) if sideways else needed
            opened.draft(None, wanted)
        pixels = opened.width * opened.height
        return OpenedPicture(kind, data, opened.mode, orientation, width, height, wanted, pixels, unpacked)


def _turned(size: tuple[int, int]) -> tuple[int, int]:
    return size[1], size[0]


@contextmanager
def refusals(kind: str) -> Iterator[None]:
    """Turn whatever Pillow raises into the refusal of a picture."""
    try:
        yield
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixels("the picture would unpack to far more pixels than the limit") from None
    except Exception as error:  # Pillow's decoders raise almost anything on corrupt bytes
        raise BadImage(f"the {kind} picture is truncated or corrupt ({type(error).__name__})") from None


def _as_bytes(image: object, limits: Limits) -> bytes:
    if isinstance(image, str):
        return _from_base64(image, limits)
    if image is None or image == b"":
        raise MissingImage(f"no picture arrived; {HOW_TO_SEND}")
    if not isinstance(image, (bytes, bytearray)):
        raise BadJson(f"the picture must be base64 text, as in {{'data': '...'}}, not {quote(image)}")
    if len(image) > limits.max_bytes:
        raise TooManyBytes(f"the picture has {len(image)} bytes; the limit is {limits.max_bytes}")
    return bytes(image)


def _from_base64(text: str, limits: Limits) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if not text:
        raise MissingImage(f"no picture arrived; {HOW_TO_SEND}")
    if len(text) > limits.max_bytes * 4 / 3 + 1024:  # room for line breaks
        raise TooManyBytes(f"the picture's base64 text is longer than {limits.max_bytes} bytes would need")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadBase64("the picture is not valid base64 (A-Z a-z 0-9 + / and = padding)") from None
    return _as_bytes(data, limits)


def _check_size(kind: str, width: int, height: int, limits: Limits) -> None:
    if width < limits.min_side or height < limits.min_side:
        raise ImageTooSmall(f"the picture is {width} x {height} pixels; each side must have {limits.min_side} or more")
    _check_most(kind, width, height, limits)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise TooManyPixels(f"the picture is {width} x {height} pixels; one side may be {MAX_ASPECT} times the other")


def _check_most(kind: str, width: int, height: int, limits: Limits, part: str = "picture") -> None:
    most = min(limits.max_pixels, MOST_PIXELS.get(kind, limits.max_pixels))
    if width * height > most or max(width, height) > limits.max_side:
        raise TooManyPixels(
            f"the {kind} {part} is {width} x {height} pixels; the limit is {most} pixels in all and "
            f"{limits.max_side} a side"
        )


def _check_frames(frames: Sequence[FrameSize], limits: Limits) -> None:
    """Refuse (TooManyPixels) what an AVIF's decoder would unpack, whatever size its boxes name."""
    most = MOST_FRAMES * min(limits.max_pixels, MOST_PIXELS["AVIF"])
    for frame in frames:
        _check_most("AVIF", frame.width, frame.height, limits)
    if sum(frame.width * frame.height for frame in frames) > most or any(frame.most > most for frame in frames):
        raise TooManyPixels(f"the AVIF picture's data may unpack to more than {most} pixels: save it anew")


def _check_codec(kind: str, opened: ImageFile.ImageFile) -> None:
    if kind == "TIFF" and (codec := opened.info.get("compression")) not in TIFF_CODECS:
        raise UnsupportedFormat(f"the TIFF picture is compressed by {quote(codec)}: save it with LZW, deflate or none")
    if kind == "TIFF" and opened.mode in ("I", "F"):
        raise UnsupportedFormat("the TIFF picture has 32 bits a grey value, and no known white: save it with 8 or 16")
    if any(tile[0] == "bmp_rle" for tile in opened.tile):
        # Pillow unpacks these pixel by pixel in Python: 21 kB took 4 s.
        raise UnsupportedFormat("the BMP picture is run-length encoded: send it uncompressed, or as PNG")


def _check_strips(opened: TiffImagePlugin.TiffImageFile, limits: Limits) -> int:
    """Return the bytes of a strip or tile as its decoder unpacks it.

    TooManyPixels: its tiles are larger than a picture may be; those of one of 64 x 64 pixels took gigabytes.
    """
    tags = opened.tag_v2
    width, height = (tags.get(tag, 0) for tag in TIFF_TILE_SIDES)
    if width > 0 and height > 0:
        _check_most("TIFF", width, height, limits, "tile")
    else:
        width, height = opened.width, max(0, min(opened.height, tags.get(TIFF_STRIP_ROWS, opened.height)))
    return int(width * height * -(-sum(tags.get(TIFF_BITS, (1,))) // 8))
