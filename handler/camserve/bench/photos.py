"""The photos of every benchmark: scikit-image's cat and coffee, each cut differently."""

from __future__ import annotations

from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from camserve.build.locate import find_file
from camserve.input_spec import InputSpec
from camserve.intake.preprocess import normalise, resize_and_crop
from camserve.values import Picture

SOURCES = ("package://skimage/data/chelsea.png", "package://skimage/data/coffee.png")
SIZE = (451, 300)  # width, height in pixels
QUALITY = 90
CUT = 8  # pixels off the edges, more with each picture


def cut_pictures(count: int) -> list[Image.Image]:
    """Return different photos of one size."""
    return [_cut(number) for number in range(count)]


def _cut(number: int) -> Image.Image:
    with Image.open(find_file(SOURCES[number % len(SOURCES)])) as photo:
        off = CUT * (number // 2 % 8)
        box = (off, off // 2, photo.width - off // 2, photo.height - off)
        return photo.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC, box=box)


def encode_jpegs(count: int) -> list[bytes]:
    """Return different photos, encoded."""
    encoded = []
    for picture in cut_pictures(count):
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY)
        encoded.append(buffer.getvalue())
    return encoded


def load_pixels(count: int, side: int, device: torch.device, resize: int | None = None) -> Tensor:
    """Return the same photos as a network wants them, (N, 3, side, side) float32."""
    spec = InputSpec(resize=resize or side, crop=side)
    return normalise(
        [resize_and_crop(Picture(photo, "JPEG", *photo.size), spec)[0] for photo in cut_pictures(count)], spec, device
    )
