"""From pictures to the network's input, and the part of each picture that this shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camserve.input_spec import InputSpec
from camserve.values import Box, Picture

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def enough(width: int, height: int, spec: InputSpec) -> tuple[int, int]:
    """Return how many pixels across and down of a picture are worth decoding: twice those that resizing leaves."""
    across, down = _resized(width, height, spec)
    return 2 * across, 2 * down


def resize_and_crop(picture: Picture, spec: InputSpec) -> tuple[np.ndarray, Box]:
    """Resize and crop: (H, W, C) of the network's size, and the part of the uploaded picture that it shows.

    uint8, red before green and blue, or float32 for a deep picture; 0..255.

    The geometry is torchvision's Resize and CenterCrop on PIL pictures.
    """
    height, width = spec.size
    image = picture.seen or picture.image
    region = seen_region(picture.width, picture.height, spec)
    across, down = image.width / picture.width, image.height / picture.height  # less than 1 for a reduced picture
    left, top, right, bottom = region[0] * across, region[1] * down, region[2] * across, region[3] * down
    # Resizing the region alone gives the pixels that resize-then-crop gives, without the rest.
    box = (max(0.0, left), max(0.0, top), min(image.width, right), min(image.height, bottom))
    pixels = np.asarray(image.resize((width, height), RESAMPLING[spec.interpolation], box=box))
    return pixels.reshape(height, width, -1), region


def normalise(rows: Sequence[np.ndarray], spec: InputSpec, device: torch.device) -> Tensor:
    """Return (N, C, H, W) float32 on ``device``, channels last in memory, of (H, W, C) rows, 0..255: one upload."""
    dtype = torch.uint8 if all(row.dtype == np.uint8 for row in rows) else torch.float32
    stacked = torch.empty((len(rows), *rows[0].shape), dtype=dtype, pin_memory=device.type == "cuda")
    np.stack(rows, out=stacked.numpy())
    # By whole lines of red, green, blue, red, ...: by channels of three numbers it takes five times as long.
    lines = stacked.to(device, non_blocking=True).flatten(2)
    backwards = spec.color == "bgr"  # rows are red, green, blue, and mean and std are of the network's channels
    mean, std = (
        torch.tensor(values[::-1] if backwards else values, device=device).repeat(rows[0].shape[1]) * 255
        for values in (spec.mean, spec.std)
    )
    values = lines.sub(mean).div_(std).view(stacked.shape)
    return (values.flip(3) if backwards else values).permute(0, 3, 1, 2)


def shrink(image: Image.Image, longest: int) -> Image.Image:
    """Return a picture whose longest side has at most so many pixels."""
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def seen_region(width: int, height: int, spec: InputSpec) -> Box:
    """Return the part of a picture, in its own pixels, that survives resize and centre crop."""
    resized_width, resized_height = _resized(width, height, spec)
    crop_height, crop_width = spec.size
    left = round((resized_width - crop_width) / 2)
    top = round((resized_height - crop_height) / 2)
    across, down = width / resized_width, height / resized_height
    return (left * across, top * down, (left + crop_width) * across, (top + crop_height) * down)


def _resized(width: int, height: int, spec: InputSpec) -> tuple[int, int]:
    if isinstance(spec.resize, tuple):
        return spec.resize[1], spec.resize[0]
    short = spec.resize
    assert short is not None
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short
