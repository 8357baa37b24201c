"""From any mode of Pillow's to RGB, and to what a network of one or four channels is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

BAND = 256  # rows converted at a time
GREY, DEEP = ("1", "L", "LA", "La"), ("I", "F")  # Pillow's modes of 8 bits and less, and how those of 16 and 32 begin
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
FULL_DEPTH = 16  # bits
USUAL_DEPTHS = (10, 12, 14)  # bits of cameras and scanners that store a grey value in 16


@dataclass(frozen=True)
class Depth:
    """How many bits the grey values of a 16-bit picture have: its white is 2 ** bits - 1."""

    bits: int = FULL_DEPTH
    guessed: bool = False  # nothing in the file says it for certain


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has greys of more than 8 bits."""
    return image.mode.startswith(DEEP)


def as_native(image: Image.Image) -> Image.Image:
    """Return 16-bit greys of the other byte order in a mode in which every Pillow can compute."""
    return image.convert("I") if image.mode == "I;16B" else image


def is_dim(image: Image.Image) -> bool:
    """Whether 16-bit colours, of which Pillow keeps the upper 8 bits, all fit 14 bits: they may have fewer than 16."""
    colors = image.getextrema()[: 1 if image.mode == "LA" else 3]
    return int(np.max(colors)) < 1 << (max(USUAL_DEPTHS) - 8)


def is_transparent(image: Image.Image) -> bool:
    """Whether something of a picture may be transparent."""
    return image.mode in TRANSPARENT or "transparency" in image.info


def find_depth(image: Image.Image, named: int | None = None) -> Depth:
    """Return the depth of a 16-bit grey picture; ``named`` is what the file says of it, in bits.

    A PNG's sBIT chunk names the bits before the values were scaled to 16 bits. Many writers do not scale them: where
    the values fit the named bits and use the lower ones, they were not scaled.
    """
    peak = int(np.max(as_native(image).getextrema()))
    if named is not None and named < FULL_DEPTH:
        if peak >> named:
            return Depth()
        scaled_bits = (1 << (FULL_DEPTH - named)) - 1
        return Depth(named) if np.any(np.asarray(as_native(image)) & scaled_bits) else Depth(guessed=peak > 0)
    # An all-black picture is the same at every depth.
    fitting = [bits for bits in USUAL_DEPTHS if not peak >> bits] if peak and named is None else []
    return Depth(fitting[0], guessed=True) if fitting else Depth()


def to_rgb(image: Image.Image, depth: Depth) -> Image.Image:
    """Convert any mode to RGB: deep greys are scaled by their depth, transparency is laid on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # the opened file holds on to its decoder, a WebP's to two more pictures
    flat = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, BAND):  # a second whole copy could be hundreds of megabytes
        box = (0, top, image.width, min(top + BAND, image.height))
        band = _eight_bits(image.crop(box), depth)
        flat.paste(band, box, band if band.mode == "RGBA" else None)
    return flat


def for_network(image: Image.Image, rgb: Image.Image, color: str, depth: Depth) -> Image.Image:
    """Return what a network of this ``color`` is shown: ``rgb`` itself, L, F (deep greys, 0..255) or RGBA.

    Grey is Pillow's luminance: (299 red + 587 green + 114 blue) / 1000.
    """
    if color == "gray":
        return Image.fromarray(_scale(image, depth)) if is_deep(image) else rgb.convert("L")
    if color == "rgba":
        return (image if is_transparent(image) else rgb).convert("RGBA")
    return rgb


def _eight_bits(image: Image.Image, depth: Depth) -> Image.Image:
    if is_deep(image):
        # Pillow would clip these to 8 bits instead of scaling them.
        return Image.fromarray((_scale(image, depth) + 0.5).astype(np.uint8)).convert("RGB")
    return image.convert("RGBA" if is_transparent(image) else "RGB")


def _scale(image: Image.Image, depth: Depth) -> np.ndarray:
    """Return deep greys as (H, W) float32, 0..255."""
    values = np.asarray(as_native(image), np.float32) * np.float32(255 / ((1 << depth.bits) - 1))
    return np.clip(values, 0, 255, out=values)
