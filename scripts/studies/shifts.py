"""Faults that happen to served classifiers, as they reach the server: changed pictures, or a changed preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from camserve.input_spec import InputSpec

MOVED = 0.3  # of the width
HIDDEN = 0.4  # of the short side
DARKENED, GAMMA = 0.5, 2.0
BLUR_SIDES = 1 / 80  # of the short side: radius of the blur


def _same(picture: Image.Image) -> Image.Image:
    return picture


def _given(spec: InputSpec) -> InputSpec:
    return spec


@dataclass(frozen=True)
class Shift:
    """One fault: what it does to the pictures that are sent, or to how the server prepares them."""

    meaning: str
    picture: Callable[[Image.Image], Image.Image] = _same
    input: Callable[[InputSpec], InputSpec] = _given
    harmless: bool = False  # the model is meant to bear it, so that no family need see it


def squeezed(picture: Image.Image) -> Image.Image:
    """Store at half the width."""
    return picture.resize((picture.width // 2, picture.height))


def moved(picture: Image.Image) -> Image.Image:
    """Move what is shown to the right; the gap is filled with its mirror image."""
    pixels = np.asarray(picture)
    by = round(MOVED * picture.width)
    return Image.fromarray(np.concatenate([pixels[:, :by][:, ::-1], pixels[:, : picture.width - by]], axis=1))


def occluded(picture: Image.Image) -> Image.Image:
    """Hide the centre behind a square of the picture's mean colour."""
    changed = picture.copy()
    half = round(HIDDEN * min(picture.size) / 2)
    x, y = picture.width // 2, picture.height // 2
    color = tuple(int(mean) for mean in np.asarray(picture).mean(axis=(0, 1)))
    changed.paste(color, (x - half, y - half, x + half, y + half))
    return changed


def letterboxed(picture: Image.Image) -> Image.Image:
    """Pad to a square with black bars."""
    side = max(picture.size)
    return ImageOps.pad(picture, (side, side))


def jpeg8(picture: Image.Image) -> Image.Image:
    """Compress to JPEG quality 8 and back."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=8)
    return Image.open(buffer).convert("RGB")


def bgr(picture: Image.Image) -> Image.Image:
    """Swap red and blue."""
    return Image.merge("RGB", picture.split()[::-1])


def blurred(picture: Image.Image) -> Image.Image:
    """Blur, as out of focus."""
    return picture.filter(ImageFilter.GaussianBlur(BLUR_SIDES * min(picture.size)))


def squashed(spec: InputSpec) -> InputSpec:
    """Resize to the network's input regardless of the aspect ratio, rather than crop."""
    return dataclasses.replace(spec, resize=spec.size, crop=None)


def imagenet_normalised(spec: InputSpec) -> InputSpec:
    """Normalise with ImageNet's mean and deviation, whatever the weights want."""
    return dataclasses.replace(spec, mean=InputSpec.mean, std=InputSpec.std)


def not_normalised(spec: InputSpec) -> InputSpec:
    """Leave pixels in 0..1."""
    return dataclasses.replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


SHIFTS: Mapping[str, Shift] = {
    "clean": Shift("nothing", harmless=True),
    "flipped": Shift("mirrored left to right", ImageOps.mirror, harmless=True),
    "squashed": Shift("resized regardless of aspect ratio", input=squashed),
    "squeezed": Shift(
        "stored at half their width", lambda picture: picture.resize((picture.width // 2, picture.height))
    ),
    "moved": Shift("camera moved by 30 % of the width", moved),
    "occluded": Shift("centre hidden, 40 % of the short side", occluded),
    "letterboxed": Shift("black bars to a square", letterboxed),
    "rotated": Shift("turned by 90 degrees", lambda picture: picture.transpose(Image.Transpose.ROTATE_90)),
    "blurred": Shift("Gaussian blur, radius 1/80 of the short side", blurred),
    "jpeg8": Shift("JPEG quality 8", jpeg8),
    "bgr": Shift("red and blue swapped", bgr),
    "dark": Shift("half as bright", lambda picture: picture.point(lambda value: value * DARKENED)),
    "gamma": Shift("gamma 2", lambda picture: picture.point(lambda value: 255 * (value / 255) ** GAMMA)),
    "wrong normalisation": Shift("ImageNet's mean and deviation", input=imagenet_normalised),
    "no normalisation": Shift("pixels left in 0..1", input=not_normalised),
}
