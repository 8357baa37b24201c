"""An archive's own transform: a picture in, the network's input out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from camserve.errors import ModelFailed
from camserve.input_spec import InputSpec
from camserve.values import Box, Picture, clip_box

# An upright picture -> an array (C, H, W), or (array, region): the part of the picture that it shows, as left, top,
# right, bottom in pixels.
Transform = Callable[[Image.Image], object]

logger = logging.getLogger(__name__)


def apply_transform(transform: Transform, picture: Picture, spec: InputSpec) -> tuple[np.ndarray, Box]:
    """Return the network's input as (H, W, C) float32, and the part of the picture that it shows.

    ModelFailed: the transform raises, or returns something else than an array of the network's shape.
    """
    try:
        made = transform(picture.seen or picture.image)
        array, region = made if isinstance(made, tuple) else (made, (0, 0, picture.width, picture.height))
        values = np.asarray(array, np.float32)
        left, top, right, bottom = (float(side) for side in region)
    except Exception as error:  # it is not our code
        logger.exception("input.transform failed")
        raise ModelFailed(
            f"input.transform failed on this picture ({type(error).__name__}); the log says more"
        ) from None
    if values.shape != spec.shape:
        raise ModelFailed(f"input.transform returned an array of shape {values.shape}, not {spec.shape}")
    region = left, top, right, bottom
    if not all(map(math.isfinite, region)) or clip_box(region, picture.width, picture.height) is None:
        raise ModelFailed("input.transform returned a region that is no part of the picture: left, top, right, bottom")
    return np.ascontiguousarray(np.moveaxis(values, 0, 2)), region


def preview_region(picture: Picture, region: Box, spec: InputSpec) -> np.ndarray:
    """Return the part of the picture in a region at the network's size, (H, W, 3) uint8: what its signals are of."""
    height, width = spec.size
    inside = clip_box(region, picture.width, picture.height)
    return np.asarray(picture.image.resize((width, height), Image.Resampling.BILINEAR, inside, reducing_gap=2.0))
