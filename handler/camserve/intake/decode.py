"""From an opened picture to an upright one in memory, no more of them at once than fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import PIL
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, features

from camserve.errors import ConfigError
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
from camserve.intake.containers import has_16_bit_colors, significant_bits
from camserve.intake.exif import ORIENTATION, UPRIGHT
from camserve.intake.gate import MemoryGate
from camserve.intake.opened import BYTES_OF_RGB, USUAL, Enough, OpenedPicture, open_picture, refusals, whole
from camserve.settings import Limits
from camserve.values import Picture

MAX_TEXT_BYTES = 4_000_000  # of a PNG's compressed text chunks
MOST_BYTES_OF_A_PIXEL = 20  # a progressive CMYK JPEG's: coefficients, its own copy, turned, and RGB
MOST_KEPT = 32  # pictures of one forward pass, which are kept until they are drawn
LIGHT = 40_000_000  # bytes that decoding holds, up to which a picture counts as small
BITS_PER_SAMPLE = 258  # a tag of TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SELF_TURNING = ("TIFF", "AVIF")  # formats whose orientation Pillow alone knows: it may turn them while it decodes

memory = MemoryGate(200_000_000)  # bytes that decoding holds, of all pictures at once


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


def most_memory(limits: Limits, batch: int) -> int:
    """Return how many bytes the pictures of a batch of so many rows hold at most, beside the network's own."""
    encoded = batch * limits.max_bytes * 2  # as base64, and as bytes
    decoded = max(memory.size, limits.max_pixels * MOST_BYTES_OF_A_PIXEL)
    kept = min(batch * limits.max_instances, MOST_KEPT) * limits.max_picture_side**2 * BYTES_OF_RGB
    return encoded + decoded + kept + batch * limits.max_response_bytes


def decode(image: object, limits: Limits, enough: Enough = whole, spec: InputSpec = USUAL) -> Picture:
    """Open and decode as ``decoding`` does, for those who have no other pictures in memory."""
    with decoding(open_picture(image, limits, enough, spec), spec) as picture:
        return picture


@contextmanager
def decoding(picture: OpenedPicture, spec: InputSpec, until: float = math.inf) -> Iterator[Picture]:
    """Decode into an upright picture for ``spec``; only the first frame counts.

    Other threads wait with pictures of their own that find no room in ``memory`` until the block is left.
    TooManyPixels, BadImage; Overloaded: a large picture found none before ``until`` of time.monotonic().
    """
    weight = picture.weight
    with memory.hold(weight, until if weight > LIGHT else math.inf):
        with refusals(picture.kind):
            decoded = _decode(picture, spec)
        yield decoded


def _decode(picture: OpenedPicture, spec: InputSpec) -> Picture:
    with picture.open() as opened:
        return _read(opened, picture, spec)


def _read(opened: ImageFile.ImageFile, picture: OpenedPicture, spec: InputSpec) -> Picture:
    kind = picture.kind
    opened.seek(0)
    is_turned = kind in SELF_TURNING and _is_rotated(opened)  # which decoding may forget
    opened.load()
    traits = _traits(opened, is_turned or picture.orientation != UPRIGHT)
    upright: Image.Image = opened
    if kind in SELF_TURNING:
        ImageOps.exif_transpose(opened, in_place=True)
    elif picture.orientation in TURNS:
        upright = opened.transpose(TURNS[picture.orientation])
    depth = _depth(opened, kind, picture.data, spec)
    # Pillow lets go of a JPEG's decoder at its end: what it decoded needs no copy.
    rgb = upright if kind == "JPEG" and upright.mode == "RGB" else to_rgb(upright, depth)
    seen = for_network(upright, rgb, spec.color, depth)
    guessed = depth.bits if depth.guessed else None
    width, height = rgb.size if kind in SELF_TURNING else (picture.width, picture.height)
    return Picture(rgb, kind, width, height, traits, seen, guessed)


def _depth(opened: Image.Image, kind: str, data: bytes, spec: InputSpec) -> Depth:
    if not is_deep(opened):
        return Depth(guessed=has_16_bit_colors(kind, data) and is_dim(opened))
    if spec.depth is not None:
        return Depth(spec.depth)
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        bits = opened.tag_v2.get(BITS_PER_SAMPLE, (FULL_DEPTH,))[0]
        return Depth(bits) if bits < FULL_DEPTH else find_depth(opened)  # how many of 16 are used it cannot say
    return find_depth(opened, significant_bits(kind, data))


def _traits(opened: Image.Image, rotated: bool) -> list[str]:
    """Return what is changed on the way to upright RGB, of ``TRAITS``: a new client shows in these."""
    found = {
        "grey": opened.mode in GREY or is_deep(opened),
        "deep": is_deep(opened),
        "cmyk": opened.mode == "CMYK",
        "flattened": is_transparent(opened),
        "rotated": rotated,
        "animated": getattr(opened, "is_animated", False),
    }
    return [name for name, holds in found.items() if holds]


def _is_rotated(opened: Image.Image) -> bool:
    return opened.getexif().get(ORIENTATION) in TURNS
