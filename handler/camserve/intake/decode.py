"""From a caller's bytes to an upright RGB picture, the cheap refusals first."""

from __future__ import annotations

import base64
import binascii
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

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
from camserve.intake.containers import check_parts, sniff
from camserve.settings import Limits
from camserve.values import Picture

HOW_TO_SEND = "send the picture as the body (curl -T photo.jpg URL) or as a form field (curl -F data=@photo.jpg URL)"

MAX_ASPECT = 100  # longer side / shorter side
MAX_TEXT_BYTES = 4_000_000  # of a PNG's compressed text chunks
BAND = 256  # rows converted at a time
LARGE = 4_000_000  # pixels; pictures larger than that are decoded one at a time, for the sake of memory
MAX_WEBP_PIXELS = 16_000_000  # each takes 16 bytes while a WebP is decoded, and there is no smaller way
ROTATION = 0x0112  # the EXIF tag
ROTATED, SIDEWAYS = range(2, 9), (5, 6, 7, 8)  # its values for what is not upright, and that swap width and height
GREY, DEEP = ("1", "L", "LA", "La"), ("I", "F")  # Pillow's modes of 8 bits and less, and how those of 16 and 32 begin
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")

Enough = Callable[[int, int], tuple[int, int]]
one_large = threading.Lock()


def harden_pillow() -> None:
    """Make Pillow refuse, rather than warn of, pictures that unpack to more than they should; load its decoders."""
    Image.init()
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES


def whole(width: int, height: int) -> tuple[int, int]:
    """Ask for every pixel of a picture."""
    return width, height


def decode(image: object, limits: Limits, enough: Enough = whole) -> Picture:
    """Decode as ``decoding`` does, for those who have no other pictures in memory."""
    with decoding(image, limits, enough) as picture:
        return picture


@contextmanager
def decoding(image: object, limits: Limits, enough: Enough) -> Iterator[Picture]:
    """Decode bytes, or their base64 text, into an upright RGB picture; only the first frame counts.

    ``enough`` says, for an upright width and height, how many pixels across and down are worth decoding: a larger
    JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, but never smaller than that. Other threads wait with large
    pictures of their own until the block is left.
    MissingImage, BadBase64, TooManyBytes, UnsupportedFormat, TooManyPixels, ImageTooSmall, BadImage.
    """
    with ExitStack() as stack:
        yield _decode(_as_bytes(image, limits), limits, enough, stack)


def _decode(data: bytes, limits: Limits, enough: Enough, stack: ExitStack) -> Picture:
    kind = sniff(data)
    check_parts(kind, data)
    try:
        with Image.open(BytesIO(data), formats=[kind]) as opened:
            _check_size(kind, opened.width, opened.height, limits)
            _check_codec(opened)
            size = _reduce(opened, enough) if kind == "JPEG" else None
            if opened.width * opened.height > LARGE:
                stack.enter_context(one_large)
            opened.seek(0)
            opened.load()
            traits = _traits(opened)
            ImageOps.exif_transpose(opened, in_place=True)
            upright = to_rgb(opened)
            return Picture(upright, kind, *(size or upright.size), traits)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixels(f"the picture would unpack to more than {limits.max_pixels} pixels") from None
    except Exception as error:  # Pillow's decoders raise almost anything on corrupt bytes
        raise BadImage(f"the {kind} picture is truncated or corrupt ({type(error).__name__})") from None


def _traits(opened: Image.Image) -> list[str]:
    """Return what is changed on the way to upright RGB, of ``TRAITS``: a new client shows in these."""
    found = {
        "grey": opened.mode in GREY or opened.mode.startswith(DEEP),
        "deep": opened.mode.startswith(DEEP),
        "cmyk": opened.mode == "CMYK",
        "flattened": _is_transparent(opened),
        "rotated": opened.getexif().get(ROTATION) in ROTATED,  # a PNG is unpacked to know it: not before it may be
        "animated": getattr(opened, "is_animated", False),
    }
    return [name for name, holds in found.items() if holds]


def _reduce(opened: Image.Image, enough: Enough) -> tuple[int, int]:
    """Set a JPEG's decoder to no more pixels than needed; return the picture's own width and height, upright."""
    sideways = opened.getexif().get(ROTATION) in SIDEWAYS
    size = opened.size[::-1] if sideways else opened.size
    needed = enough(*size)
    opened.draft(None, needed[::-1] if sideways else needed)
    return size


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
    most = min(limits.max_pixels, MAX_WEBP_PIXELS) if kind == "WEBP" else limits.max_pixels
    if width * height > most or max(width, height) > limits.max_side:
        raise TooManyPixels(
            f"the {kind} picture is {width} x {height} pixels; the limit is {most} pixels in all and "
            f"{limits.max_side} a side"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise TooManyPixels(f"the picture is {width} x {height} pixels; one side may be {MAX_ASPECT} times the other")


def _check_codec(opened: ImageFile.ImageFile) -> None:
    if any(tile[0] == "bmp_rle" for tile in opened.tile):
        # Pillow unpacks these pixel by pixel in Python: 21 kB took 4 s.
        raise UnsupportedFormat("the BMP picture is run-length encoded: send it uncompressed, or as PNG")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: 16-bit greys are scaled, transparency is laid on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # the opened file holds on to its decoder, a WebP's to two more pictures
    flat = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND):  # a second whole copy could be hundreds of megabytes
        box = (0, top, image.width, min(top + BAND, image.height))
        flat.paste(_flatten(image.crop(box)), box)
    return flat


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in TRANSPARENT or "transparency" in image.info


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith(DEEP):
        # Pillow would clip these to 8 bits instead of scaling them.
        grey = np.clip(np.asarray(image, np.float32) / 257.0 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if _is_transparent(image):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
