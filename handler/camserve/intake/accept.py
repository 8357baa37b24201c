"""From a caller's picture to the network's pixels, keeping no more of it than will be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from camserve.input_spec import InputSpec
from camserve.intake.decode import decoding
from camserve.intake.geometry import enough
from camserve.intake.preprocess import resize_and_crop, shrink
from camserve.settings import Limits
from camserve.values import Box, Picture

NO_PICTURE = Image.new("RGB", (1, 1))  # in the place of a picture that nobody will draw

KeptSide = Callable[[int, int], int]  # (width, height) of a picture -> its longest side in pixels that is drawn


def accept_picture(
    image: object, spec: InputSpec, limits: Limits, kept_side: KeptSide
) -> tuple[Picture, np.ndarray, Box]:
    """Return the decoded picture, its pixels (H, W, C) for the network, and the part that these show.

    The picture is shrunk to ``kept_side``, or dropped where that is 0. Errors: those of ``decoding``.
    """

    def needed(width: int, height: int) -> tuple[int, int]:
        across, down = enough(width, height, spec)
        kept = kept_side(width, height) / max(width, height)
        return max(across, math.ceil(width * kept)), max(down, math.ceil(height * kept))

    with decoding(image, limits, needed, spec) as picture:
        pixels, region = resize_and_crop(picture, spec)
        side = kept_side(picture.width, picture.height)
        # Before the next large picture is decoded: a batch of them could fill the memory.
        return replace(picture, image=shrink(picture.image, side) if side else NO_PICTURE, seen=None), pixels, region
