"""Photos that anyone may have: soft random shapes on random grounds, of several sizes."""

from io import BytesIO

import numpy as np
from PIL import Image

SIZES = [(96, 64), (64, 96), (80, 80), (120, 90)]


def photo(number, dark=1.0):
    """Return picture ``number`` as PNG bytes; the same number gives the same picture."""
    chance = np.random.default_rng(number)
    width, height = SIZES[chance.integers(len(SIZES))]
    y, x = np.mgrid[0:1:8j, 0:1:8j]
    left, top, size = chance.uniform(0.2, 0.8, 3)
    blob = np.exp(-((x - left) ** 2 + (y - top) ** 2) / (0.02 + size * 0.1))[..., None]
    pixels = chance.uniform(0, 160, 3) + blob * chance.uniform(-80, 95, 3) + chance.normal(0, 12, (8, 8, 3))
    image = Image.fromarray(np.clip(pixels * dark, 0, 255).astype(np.uint8)).resize((width, height), Image.BICUBIC)
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_photos(folder, count, dark=1.0):
    """Write pictures 0 to ``count`` - 1 into a new folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:04d}.png").write_bytes(photo(number, dark))
    return folder
