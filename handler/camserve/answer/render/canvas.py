"""Where on a drawn picture a map lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from camserve.choices import EVIDENCE, PALETTES
from camserve.values import Box

PALETTES_OF_EVIDENCE = {"signed": "diverging", "against": "against"}  # whatever is asked for

Pixels = tuple[int, int, int, int]  # left, top, right, bottom; the last two are just outside


@dataclass(frozen=True)
class Caption:
    """What is written below a drawn picture."""

    subject: str  # the class and its probability
    question: str  # the method, and what its map is to show
    warnings: str = ""  # their codes


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn: a photo and the map of a part of it."""

    image: Image.Image  # RGB, upright
    region: Box  # what the grid covers, in pixels of ``image``
    grid: np.ndarray  # (h, w) float32: 0..1, or -1..1 when signed
    palette: str = PALETTES[0]
    opacity: float = 0.6  # 0..1, of the map where it is strongest
    size: int | None = None  # longest side of the drawn picture in pixels; None: that of ``image``
    evidence: str = EVIDENCE[0]  # of which kind: signed may be -1..1, even where it holds nothing against
    legend: str | None = None  # what the value 1 of a colour bar stands for; None: no bar
    caption: Caption | None = None  # None: no words

    @property
    def signed(self) -> bool:
        """Whether the palette has its middle at zero."""
        return self.evidence == "signed"

    @property
    def drawn_palette(self) -> str:
        """The palette of the map: evidence against has one of its own, and a signed map has zero in its middle."""
        return PALETTES_OF_EVIDENCE.get(self.evidence, self.palette)


@dataclass(frozen=True)
class PlacedMap:
    """A map at the resolution of the drawn picture."""

    size: tuple[int, int]  # width, height of the drawn picture
    inside: Pixels  # the pixels that have a value: those whose centre lies in the region
    values: np.ndarray  # (bottom - top, right - left) float32


def place(scene: Scene) -> PlacedMap:
    """Resize the map onto the pixels of the drawn picture, to a fraction of a pixel: Catmull-Rom's cubic.

    It passes through the grid's values without the creases of a bilinear map, repeats the outermost cells beyond the
    edge, and is clipped to the grid's own range. A shrunk axis is averaged by a kernel as many times as wide.
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
    return PlacedMap((width, height), inside, np.clip(values, scene.grid.min(), scene.grid.max()))


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
    wide = max(1.0, per_pixel)
    reach = math.ceil(2 * wide)
    weights = _cubic((at[:, None] - np.arange(-reach, cells + reach)) / wide)
    weights /= weights.sum(axis=1, keepdims=True)
    folded = weights[:, reach : reach + cells].copy()
    folded[:, 0] += weights[:, :reach].sum(axis=1)
    folded[:, -1] += weights[:, reach + cells :].sum(axis=1)
    return _Axis(start, stop, folded.astype(np.float32))


def _cubic(offset: np.ndarray) -> np.ndarray:
    """Return the weight of a cell so many cells away (Keys 1981 with a = -1/2, which is Catmull and Rom's spline)."""
    distance = np.minimum(np.abs(offset), 2)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights: np.ndarray = np.where(distance < 1, near, far)
    return weights
