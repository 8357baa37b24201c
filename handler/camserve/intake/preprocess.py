"""From pictures to the network's input, and the part of each picture that this shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camserve.input_spec import InputSpec
from camserve.intake.geometry import Span, place_picture
from camserve.values import Box, Picture

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
REACH = {"nearest": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3}  # pixels on each side that a resized one is made of


class _Part(NamedTuple):
    """One axis of what has to be resized."""

    target: tuple[int, int]  # pixels of the network's input that it fills
    margin: tuple[int, int]  # pixels of padding that the picture needs before and after it
    box: tuple[float, float]  # of the picture with these margins


def resize_and_crop(picture: Picture, spec: InputSpec) -> tuple[np.ndarray, Box]:
    """Resize, pad and crop: (H, W, C) of the network's size, and the part of the uploaded picture that it shows.

    uint8, red before green and blue, or float32 for a deep picture; 0..255. The geometry is torchvision's Resize, Pad
    and CenterCrop on PIL pictures.
    """
    image = picture.seen or picture.image
    placement = place_picture(picture.width, picture.height, spec)
    reach = REACH[spec.interpolation]
    across = _part(placement.across, image.width, picture.width, reach)
    down = _part(placement.down, image.height, picture.height, reach)
    fill = _fill(image.mode, spec.pad_color)
    # Resizing the part alone gives the pixels that resize-then-crop gives, without the rest.
    (left, right), (top, bottom) = across.box, down.box
    size = across.target[1] - across.target[0], down.target[1] - down.target[0]
    canvas = _add_margins(image, across.margin, down.margin, fill)
    part = canvas.resize(size, RESAMPLING[spec.interpolation], box=(left, top, right, bottom))
    height, width = spec.size
    if size != (width, height):
        whole = Image.new(image.mode, (width, height), fill)
        whole.paste(part, (across.target[0], down.target[0]))
        part = whole
    return np.asarray(part).reshape(height, width, -1), placement.region


def _part(span: Span, pixels: int, own: int, reach: int) -> _Part:
    """Return what has to be resized of an axis of ``pixels``, decoded from a picture of ``own``; no more than is seen.

    Padding before resizing mixes with the picture's edge. It is added as far as a resized pixel reaches: the whole of
    it could be a hundred times the picture.
    """
    reduced = pixels / own
    scale, start = span.scale * reduced, span.seen[0] * reduced  # of the decoded pixels
    first, stop = max(0, span.first), min(span.side, span.stop)
    margins = [0, 0]
    if any(span.padding):
        radius = reach * max(scale, 1.0)
        first = max(first, math.floor((-start - radius) / scale - 0.5))
        stop = min(stop, math.ceil((pixels - start + radius) / scale + 0.5))
        # A resized pixel is made of those within the radius of its centre.
        needed = (radius - start - (first + 0.5) * scale, start + (stop - 0.5) * scale + radius - pixels)
        margins = [min(max(0, math.ceil(need)), round(most * reduced)) for need, most in zip(needed, span.padding)]
    low, high = (margins[0] + start + edge * scale for edge in (first, stop))
    return _Part((first, stop), (margins[0], margins[1]), (max(0.0, low), min(sum(margins) + pixels, high)))


def _add_margins(
    image: Image.Image, across: tuple[int, int], down: tuple[int, int], fill: tuple[int, ...] | float
) -> Image.Image:
    if not any((*across, *down)):
        return image
    canvas = Image.new(image.mode, (sum(across) + image.width, sum(down) + image.height), fill)
    canvas.paste(image, (across[0], down[0]))
    return canvas


@lru_cache(maxsize=16)
def _fill(mode: str, color: tuple[int, int, int]) -> tuple[int, ...] | float:
    """Return an opaque colour in a picture's mode: RGB, RGBA, L or F."""
    filled = Image.new("RGB", (1, 1), color).convert("L" if mode == "F" else mode).getpixel((0, 0))
    assert filled is not None
    return filled


def normalise(rows: Sequence[np.ndarray], spec: InputSpec, device: torch.device) -> Tensor:
    """Return (N, C, H, W) float32 on ``device``, channels last in memory, of (H, W, C) rows, 0..255: one upload."""
    dtype = torch.uint8 if all(row.dtype == np.uint8 for row in rows) else torch.float32
    stacked = torch.empty((len(rows), *rows[0].shape), dtype=dtype, pin_memory=device.type == "cuda")
    np.stack(rows, out=stacked.numpy())
    pixels = stacked.to(device, non_blocking=True)
    if spec.transform is not None:  # which has done it all
        return pixels.permute(0, 3, 1, 2)
    if spec.normalise == "image":
        return _channels_first(_standardise(pixels, spec), spec)
    # By whole lines of red, green, blue, red, ...: by channels of three numbers it takes five times as long.
    lines = pixels.flatten(2)
    per_unit = 255 / spec.scale
    # Rows are red, green, blue; mean and std are in the order of the network's channels.
    order = slice(None, None, -1) if spec.color == "bgr" else slice(None)
    mean, std = (
        torch.tensor(values[order], device=device).repeat(rows[0].shape[1]) * per_unit
        for values in (spec.mean, spec.std)
    )
    # In float32 first: whole numbers less fractions take torch twenty times as long.
    return _channels_first(lines.float().sub_(mean).div_(std).view(stacked.shape), spec)


def _standardise(pixels: Tensor, spec: InputSpec) -> Tensor:
    """Return pictures (N, H, W, C) of mean 0 and deviation 1 each, as tf.image.per_image_standardization does."""
    values = pixels.float() * (spec.scale / 255)
    deviation, mean = torch.std_mean(values, dim=(1, 2, 3), correction=0, keepdim=True)
    # A picture of one colour would be divided by 0.
    return (values - mean) / deviation.clamp(min=values[0].numel() ** -0.5)


def _channels_first(values: Tensor, spec: InputSpec) -> Tensor:
    return (values.flip(3) if spec.color == "bgr" else values).permute(0, 3, 1, 2)


def shrink(image: Image.Image, longest: int) -> Image.Image:
    """Return a picture whose longest side has at most so many pixels."""
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
