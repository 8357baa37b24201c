"""From a caller's picture to the network's pixels, keeping no more of it than will be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from camserve.input_spec import InputSpec
from camserve.intake.decode import decoding
from camserve.intake.geometry import enough
from camserve.intake.opened import OpenedPicture, open_picture
from camserve.intake.preprocess import resize_and_crop, shrink
from camserve.intake.transform import Transform, apply_transform, preview_region
from camserve.settings import Limits
from camserve.values import Box, Picture

NO_PICTURE = Image.new("RGB", (1, 1))  # in the place of a picture that nobody will draw

KeptSide = Callable[[int, int], int]  # (width, height) of a picture -> its longest side in pixels that is drawn


class Accepted(NamedTuple):
    """A picture that was accepted; the fields are those of ``Request``."""

    picture: Picture
    pixels: np.ndarray
    region: Box
    preview: np.ndarray | None


def open_to_accept(
    image: object, spec: InputSpec, limits: Limits, kept_side: KeptSide, transform: Transform | None = None
) -> OpenedPicture:
    """Read a picture's header, and set it to the size that the network and the drawings need.

    ``kept_side`` is 0 where nothing is drawn; ``transform`` is that of ``spec``. Errors: those of ``open_picture``.
    """

    def needed(width: int, height: int) -> tuple[int, int]:
        if spec.exact or transform is not None:  # which may look at any part of it
            return width, height
        across, down = enough(width, height, spec)
        kept = kept_side(width, height) / max(width, height)
        return max(across, math.ceil(width * kept)), max(down, math.ceil(height * kept))

    return open_picture(image, limits, needed, spec)


def accept(
    opened: OpenedPicture,
    spec: InputSpec,
    kept_side: KeptSide,
    transform: Transform | None = None,
    until: float = math.inf,
) -> Accepted:
    """Return the decoded picture, its pixels (H, W, C) for the network, and the part that these show.

    The picture is shrunk to ``kept_side``, or dropped where that is 0. Errors: those of ``decoding``, which gets
    ``until``, and of ``apply_transform``.
    """
    with decoding(opened, spec, until) as picture:
        preview = None
        if transform is None:
            pixels, region = resize_and_crop(picture, spec)
        else:
            pixels, region = apply_transform(transform, picture, spec)
            preview = preview_region(picture, region, spec)
        side = kept_side(picture.width, picture.height)
        # Before the next large picture is decoded: a batch of them could fill the memory.
        kept = replace(picture, image=shrink(picture.image, side) if side else NO_PICTURE, seen=None)
        return Accepted(kept, pixels, region, preview)


def read_pixels(image: object, spec: InputSpec, limits: Limits, transform: Transform | None = None) -> np.ndarray:
    """Return the pixels (H, W, C) that the network is shown of a picture. Errors: those of the two steps above."""
    opened = open_to_accept(image, spec, limits, no_pixels, transform)
    return accept(opened, spec, no_pixels, transform).pixels


def no_pixels(_width: int, _height: int) -> int:
    """Keep nothing of a picture."""
    return 0
