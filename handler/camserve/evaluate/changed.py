"""Pictures changed a little: by JPEG, noise, and a shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from camserve.build.trial.rank_correlation import rank_correlation
from camserve.evaluate.frames import Size, enlarge
from camserve.evaluate.plan import PhotoUnanswered
from camserve.values import Box

QUALITY, NOISE = 50, 10.0  # of JPEG; the noise's deviation, of 255
SHIFT = 16  # the side of the network's input divided by so much is the shift, to the right and down
COMPARED = 64  # places of a side at which shifted maps are compared


@dataclass(frozen=True)
class Frame:
    """Where the network's input lies in the picture."""

    region: Box  # in pixels of the picture
    size: Size  # of the input

    @property
    def shift(self) -> tuple[int, int]:
        """The shift across and down, in whole pixels of the picture."""
        left, top, right, bottom = self.region
        return max(1, round((right - left) / SHIFT)), max(1, round((bottom - top) / SHIFT))


def change_picture(content: bytes, frame: Frame, seed: int) -> Mapping[str, bytes]:
    """Return the changed pictures by the name of the measure. PhotoUnanswered: Pillow cannot read it."""
    try:
        with Image.open(BytesIO(content)) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError) as error:
        raise PhotoUnanswered(str(error)) from None
    return {
        "jpeg": _encode(image, "JPEG", quality=QUALITY),
        "noise": encode_png(_add_noise(np.asarray(image, np.float32), seed)),
        "shift": encode_png(_shift(np.asarray(image), *frame.shift)),
    }


def compare_maps(kind: str, grid: np.ndarray, other: np.ndarray, frame: Frame) -> float:
    """Return the rank correlation of a picture's map and the changed one's; a shifted map is moved back."""
    if kind == "shift":
        grid, other = _overlay(grid, other, frame)
    return rank_correlation(grid, other) or 0.0


def _overlay(grid: np.ndarray, other: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return both maps where both show the same part of the picture, at ``COMPARED`` places of a side or fewer."""
    left, top, right, bottom = frame.region
    across = round(frame.shift[0] * frame.size[1] / (right - left))
    down = round(frame.shift[1] * frame.size[0] / (bottom - top))
    step = max(1, max(frame.size) // COMPARED)
    one, moved = enlarge(grid, frame.size), enlarge(other, frame.size)
    rows, columns = frame.size[0] - down, frame.size[1] - across
    return one[:rows:step, :columns:step], moved[down::step, across::step]


def _add_noise(values: np.ndarray, seed: int) -> np.ndarray:
    noisy = values + np.random.default_rng(seed).normal(0, NOISE, values.shape)
    return np.asarray(noisy.round().clip(0, 255), np.uint8)


def _shift(values: np.ndarray, across: int, down: int) -> np.ndarray:
    """Return a picture (H, W, C) moved to the right and down; its first column and row fill what is left free."""
    padded = np.pad(values, ((down, 0), (across, 0), (0, 0)), mode="edge")
    return padded[: len(values), : values.shape[1]]


def encode_png(values: np.ndarray) -> bytes:
    """Return pixels (H, W, C) or (H, W) uint8 as a PNG file."""
    return _encode(Image.fromarray(values), "PNG", compress_level=1)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
