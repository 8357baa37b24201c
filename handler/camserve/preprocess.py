"""From pictures to the network's input, remembering what part of each picture the network sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from camserve.settings import InputSpec
from camserve.values import Batch, Box, Picture

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def preprocess(pictures: Sequence[Picture], spec: InputSpec, device: torch.device) -> Batch:
    """Resize, crop and normalise: (N, 3, H, W) float32 on ``device``, and the region each row shows.

    The geometry is torchvision's Resize and CenterCrop on PIL pictures.
    """
    regions = tuple(seen_region(picture.width, picture.height, spec) for picture in pictures)
    rows = [_fit(picture.image, region, spec) for picture, region in zip(pictures, regions)]
    pixels = torch.from_numpy(np.stack(rows)).to(device).permute(0, 3, 1, 2)
    mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1) * 255
    return Batch((pixels.float() - mean) / std, regions)  # channels last in memory, as pictures are


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


def _fit(image: Image.Image, region: Box, spec: InputSpec) -> np.ndarray:
    height, width = spec.size
    # Resizing the region alone gives the pixels that resize-then-crop gives, without the rest.
    box = (max(0.0, region[0]), max(0.0, region[1]), min(image.width, region[2]), min(image.height, region[3]))
    return np.asarray(image.resize((width, height), RESAMPLING[spec.interpolation], box=box))
