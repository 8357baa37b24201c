"""Another library's preprocessing and the input block written from it, held against one another on a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from camserve.errors import ConfigError, first_line
from camserve.input_spec import InputSpec
from camserve.intake.decode import decode
from camserve.intake.preprocess import normalise, resize_and_crop
from camserve.settings import Limits
from camserve.strict import read

# Mean difference of the network's input, of its own deviation. Rounding in another library's resampling stays below,
# and so does a crop that lies one pixel aside; another crop, order of channels or mean does not.
ROUNDING, ONE_PIXEL = 0.02, 1.5
SIZE = (330, 250)  # pixels across and down: not square, so that a squashed picture differs from a cropped one


def check_agreement(block: Mapping[str, Any], theirs: Callable[[Image.Image], Any], what: str) -> None:
    """Refuse an input block that gives other pixels than ``theirs``, which takes a picture and returns (3, H, W).

    ConfigError: ``what`` cannot be written as such a block.
    """
    advice = f"{what} cannot be written as an input block"
    try:
        spec = read(InputSpec, block, "preprocess")
    except ConfigError as error:
        raise ConfigError(f"{advice} ({error}): give --preprocess") from None
    image = draw_ramps(*SIZE)
    try:
        expected = torch.as_tensor(theirs(image)).float()
    except Exception as error:  # code of the other library's
        raise ConfigError(f"{what} fails: {type(error).__name__}: {first_line(error)}; give --preprocess") from error
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    pixels, _ = resize_and_crop(decode(buffer.getvalue(), Limits()), spec)
    ours = normalise([pixels], spec, torch.device("cpu"))[0]
    if ours.shape != expected.shape:
        raise ConfigError(f"{advice}: it gives {_size(expected)}, not {_size(ours)}; give --preprocess")
    difference = float((ours - expected).abs().mean() / expected.std())
    if not difference <= ROUNDING + ONE_PIXEL / min(ours.shape[1:]):
        raise ConfigError(f"{advice}: pixels differ by {difference:.2f} of their deviation; give --preprocess")


def draw_ramps(width: int, height: int) -> Image.Image:
    """Return a picture whose places and channels all differ, and which no resampling blurs."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = np.stack([across, down, (across + down) / 4], axis=2)
    return Image.fromarray((channels * 255).astype(np.uint8))


def _size(pixels: torch.Tensor) -> str:
    return " x ".join(map(str, pixels.shape))
