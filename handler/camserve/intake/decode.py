"""From a caller's bytes to an upright picture, the cheap refusals first."""

from __future__ import annotations

import base64
import binascii
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO

import PIL
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, features

from camserve.errors import (
    BadBase64,
    BadImage,
    BadJson,
    ConfigError,
    ImageTooSmall,
    MissingImage,
    RequestError,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
    quote,
)
from camserve.input_spec import InputSpec
from camserve.intake.colors import (
    FULL_DEPTH,
    GREY,
    Depth,
    find_depth,
    for_network,
    is_deep,
    is_dim,
    is_transparent,
    to_rgb,
)
from camserve.intake.containers import check_parts, has_16_bit_colors, significant_bits, sniff
from camserve.settings import Limits
from camserve.values import Picture

HOW_TO_SEND = "send the picture as the body (curl -T photo.jpg URL) or as a form field (curl -F data=@photo.jpg URL)"

MAX_ASPECT = 100  # longer side / shorter side
MAX_TEXT_BYTES = 4_000_000  # of a PNG's compressed text chunks
LARGE = 4_000_000  # pixels; pictures larger than that are decoded one at a time, for the sake of memory
# Each takes 16 bytes while a WebP is decoded, about as many in an AVIF, and there is no smaller way.
MOST_PIXELS = {"WEBP": 16_000_000, "AVIF": 16_000_000}
TIFF_CODECS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "group3", "group4", "tiff_ccitt")
ROTATION, BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and TIFF
ROTATED, SIDEWAYS = range(2, 9), (5, 6, 7, 8)  # its values for what is not upright, and that swap width and height

Enough = Callable[[int, int], tuple[int, int]]
USUAL = InputSpec()
one_large = threading.Lock()


def harden_pillow() -> None:
    """Make Pillow refuse, rather than warn of, pictures that unpack to more than they should; load its decoders."""
    Image.init()
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES


def check_decoders(spec: InputSpec) -> None:
    """Raise ConfigError where this Pillow cannot decode a format that ``spec`` switches on."""
    for name in spec.extra_formats:
        # An old Pillow warns of a feature that it does not know.
        if name.upper() not in Image.OPEN or (name == "avif" and not features.check(name)):
            raise ConfigError(
                f"input.extra_formats: Pillow {PIL.__version__} decodes no {name.upper()}: install Pillow 11.3 or "
                f"later, or leave {name} out"
            )


def whole(width: int, height: int) -> tuple[int, int]:
    """Ask for every pixel of a picture."""
    return width, height


def decode(image: object, limits: Limits, enough: Enough = whole, spec: InputSpec = USUAL) -> Picture:
    """Decode as ``decoding`` does, for those who have no other pictures in memory."""
    with decoding(image, limits, enough, spec) as picture:
        return picture


@contextmanager
def decoding(image: object, limits: Limits, enough: Enough, spec: InputSpec) -> Iterator[Picture]:
    """Decode bytes, or their base64 text, into an upright picture for ``spec``; only the first frame counts.

    ``enough`` says, for an upright width and height, how many pixels across and down are worth decoding: a larger
    JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, but never smaller than that. Other threads wait with large
    pictures of their own until the block is left.
    MissingImage, BadBase64, TooManyBytes, UnsupportedFormat, TooManyPixels, ImageTooSmall, BadImage.
    """
    with ExitStack() as stack:
        yield _decode(_as_bytes(image, limits), limits, enough, spec, stack)


def _decode(data: bytes, limits: Limits, enough: Enough, spec: InputSpec, stack: ExitStack) -> Picture:
    kind = sniff(data, spec.extra_formats)
    check_parts(kind, data)
    try:
        with Image.open(BytesIO(data), formats=[kind]) as opened:
            _check_size(kind, opened.width, opened.height, limits)
            _check_codec(kind, opened)
            size = _reduce(opened, enough) if kind == "JPEG" else None
            if opened.width * opened.height > LARGE:
                stack.enter_context(one_large)
            opened.seek(0)
            turned = kind == "TIFF" and _is_rotated(opened)  # loading turns it upright, and forgets
            opened.load()
            traits = _traits(opened, turned)
            ImageOps.exif_transpose(opened, in_place=True)
            depth = _depth(opened, kind, data, spec)
            upright = to_rgb(opened, depth)
            seen = for_network(opened, upright, spec.color, depth)
            guessed = depth.bits if depth.guessed else None
            return Picture(upright, kind, *(size or upright.size), traits, seen, guessed)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixels(f"the picture would unpack to more than {limits.max_pixels} pixels") from None
    except Exception as error:  # Pillow's decoders raise almost anything on corrupt bytes
        raise BadImage(f"the {kind} picture is truncated or corrupt ({type(error).__name__})") from None


def _depth(opened: Image.Image, kind: str, data: bytes, spec: InputSpec) -> Depth:
    if not is_deep(opened):
        return Depth(guessed=has_16_bit_colors(kind, data) and is_dim(opened))
    if spec.depth is not None:
        return Depth(spec.depth)
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        bits = opened.tag_v2.get(BITS_PER_SAMPLE, (FULL_DEPTH,))[0]
        return Depth(bits) if bits < FULL_DEPTH else find_depth(opened)  # how many of 16 are used it cannot say
    return find_depth(opened, significant_bits(kind, data))


def _traits(opened: Image.Image, turned: bool) -> list[str]:
    """Return what is changed on the way to upright RGB, of ``TRAITS``: a new client shows in these."""
    found = {
        "grey": opened.mode in GREY or is_deep(opened),
        "deep": is_deep(opened),
        "cmyk": opened.mode == "CMYK",
        "flattened": is_transparent(opened),
        "rotated": turned or _is_rotated(opened),  # a PNG is unpacked to know it: not before it may be
        "animated": getattr(opened, "is_animated", False),
    }
    return [name for name, holds in found.items() if holds]


def _is_rotated(opened: Image.Image) -> bool:
    return opened.getexif().get(ROTATION) in ROTATED


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
    most = min(limits.max_pixels, MOST_PIXELS.get(kind, limits.max_pixels))
    if width * height > most or max(width, height) > limits.max_side:
        raise TooManyPixels(
            f"the {kind} picture is {width} x {height} pixels; the limit is {most} pixels in all and "
            f"{limits.max_side} a side"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise TooManyPixels(f"the picture is {width} x {height} pixels; one side may be {MAX_ASPECT} times the other")


def _check_codec(kind: str, opened: ImageFile.ImageFile) -> None:
    if kind == "TIFF" and (codec := opened.info.get("compression")) not in TIFF_CODECS:
        raise UnsupportedFormat(f"the TIFF picture is compressed by {quote(codec)}: save it with LZW, deflate or none")
    if kind == "TIFF" and opened.mode in ("I", "F"):
        raise UnsupportedFormat("the TIFF picture has 32 bits a grey value, and no known white: save it with 8 or 16")
    if any(tile[0] == "bmp_rle" for tile in opened.tile):
        # Pillow unpacks these pixel by pixel in Python: 21 kB took 4 s.
        raise UnsupportedFormat("the BMP picture is run-length encoded: send it uncompressed, or as PNG")
