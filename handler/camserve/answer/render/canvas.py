"""Where on a drawn picture a map lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from camserve.choices import PALETTES
from camserve.values import Box

Pixels = tuple[int, int, int, int]  # left, top, right, bottom; the last two are just outside


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn: a photo and the map of a part of it."""

    image: Image.Image  # RGB, upright
    region: Box  # what the grid covers, in pixels of ``image``
    grid: np.ndarray  # (h, w) float32: 0..1, or -1..1 when signed
    palette: str = PALETTES[0]
    opacity: float = 0.6  # 0..1, of the map where it is strongest
    size: int | None = None  # longest side of the drawn picture in pixels; None: that of ``image``
    signed: bool = False  # whether the grid may hold evidence against, even where it holds none
    legend: str | None = None  # caption of a colour bar; None: no bar

    @property
    def drawn_palette(self) -> str:
        """The palette of the map: a signed one is always diverging, whose middle is zero."""
        return "diverging" if self.signed else self.palette


@dataclass(frozen=True)
class Placement:
    """A map at the resolution of the drawn picture."""

    size: tuple[int, int]  # width, height of the drawn picture
    inside: Pixels  # the pixels that have a value: those whose centre lies in the region
    values: np.ndarray  # (bottom - top, right - left) float32


def place(scene: Scene) -> Placement:
    """Resize the map onto the pixels of the drawn picture, to a fraction of a pixel: bilinear, ``align_corners=False``.

    A shrunk axis is averaged by a triangle as wide as two of the new pixels, so that nothing falls between
    them (torch's ``antialias=True``).
    """
    width, height = drawn_size(scene)
    across, down = width / scene.image.width, height / scene.image.height
    left, top, right, bottom = scene.region
    rows = _axis(scene.grid.shape[0], top * down, bottom * down, height)
    columns = _axis(scene.grid.shape[1], left * across, right * across, width)
    inside = (columns.start, rows.start, columns.stop, rows.stop)
    # Not a matrix product: NumPy's would start threads that go on spinning for as long as a forward pass takes.
    lines = np.einsum("pr,rc->pc", rows.weights, scene.grid)
    values = np.einsum("pc,cq->pq", lines, np.ascontiguousarray(columns.weights.T))
    return Placement((width, height), inside, values)


def drawn_size(scene: Scene) -> tuple[int, int]:
    """Return width and height of the drawn picture: the photo's shape, its longest side as asked."""
    width, height = scene.image.size
    scale = 1 if scene.size is None else scene.size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def photo(scene: Scene) -> Image.Image:
    """Return a copy of the photo at the drawn size."""
    return scene.image.resize(drawn_size(scene), Image.Resampling.BICUBIC, reducing_gap=2.0)


@dataclass(frozen=True)
class _Axis:
    start: int
    stop: int
    weights: np.ndarray  # (stop - start, cells) float32: each pixel's mean of the cells near it


def _axis(cells: int, low: float, high: float, pixels: int) -> _Axis:
    """Lay ``cells`` evenly from ``low`` to ``high`` on an axis of ``pixels``."""
    start = min(max(math.ceil(low - 0.5), 0), pixels)
    stop = max(min(math.ceil(high - 0.5), pixels), start)
    per_pixel = cells / (high - low)
    at = (np.arange(start, stop) + 0.5 - low) * per_pixel - 0.5  # in cells, 0 at the centre of the first
    distance = np.abs(at[:, None] - np.arange(cells))
    weights = np.maximum(0, 1 - distance / max(1.0, per_pixel))
    # Beyond the outermost centres this repeats the outermost cell.
    return _Axis(start, stop, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
