"""What signals are computed from, for many rows at once: predictions, maps and inputs.

Each view keeps what several signals share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

Column = Any  # (N,) floats, one a row; the stubs of numpy lose the type of most arithmetic

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Predictions:
    """The scores of N rows."""

    scores: np.ndarray  # (N, C) float32, before softmax
    probabilities: np.ndarray | None  # (N, C) float32; None: the scores are quantities

    @cached_property
    def confidence(self) -> Column:
        """The largest probability of each row, (N,)."""
        assert self.probabilities is not None
        return self.probabilities.max(axis=1)

    @cached_property
    def energy(self) -> Column:
        """Logsumexp of the scores of each row, (N,)."""
        return _logsumexp(self.scores)

    def energy_of(self, row: int) -> float:
        """Return the energy of one row alone."""
        return float(_logsumexp(self.scores[row : row + 1])[0])

    @cached_property
    def classes(self) -> Column:
        """The predicted class of each row, (N,) int64; the first of quantities."""
        if self.probabilities is None:
            return np.zeros(len(self.scores), np.int64)
        return self.scores.argmax(axis=1)


def _logsumexp(scores: np.ndarray) -> Column:
    largest = scores.max(axis=1)
    return largest + np.log(np.exp(scores - largest[:, None]).sum(axis=1))


@dataclass(frozen=True)
class Maps:
    """The maps of M rows on the layer's own grid."""

    raw: np.ndarray  # (M, h, w) float32, the positive part, not divided by its maximum; none is all zero
    negative: np.ndarray  # (M,) share of the signed map's mass below 0

    @cached_property
    def mass(self) -> Column:
        """The sum of each map, (M,)."""
        return self.raw.sum(axis=(1, 2), dtype=np.float64)

    @cached_property
    def shares(self) -> Column:
        """Each map divided by its sum, (M, h * w)."""
        return self.raw.reshape(len(self.raw), -1) / self.mass[:, None]

    @cached_property
    def places(self) -> Column:
        """Mean column, mean row, outer share, mean square column and mean square row of each map, (M, 5)."""
        return self.shares @ _places(*self.raw.shape[1:])

    @property
    def cells(self) -> int:
        """The number of cells of a map."""
        return int(self.shares.shape[1])


@lru_cache(maxsize=8)
def _places(rows: int, columns: int) -> np.ndarray:
    """Return (h * w, 5): the centre of each cell, across and down in 0..1, 1 in the outer ring, and mean squares.

    A cell's evidence lies anywhere in it, so that its mean square is more than the square of its centre.
    """
    y, x = np.mgrid[:rows, :columns]
    outer = (x == 0) | (x == columns - 1) | (y == 0) | (y == rows - 1)
    across, down = (x + 0.5) / columns, (y + 0.5) / rows
    squares = across**2 + 1 / (12 * columns**2), down**2 + 1 / (12 * rows**2)
    return np.stack([across, down, outer, *squares], axis=-1).reshape(-1, 5)


@dataclass(frozen=True)
class Inputs:
    """What the network was shown, as small pictures, and the size of what was uploaded."""

    thumbnails: np.ndarray  # (N, h, w, 3) uint8: red, green, blue
    sizes: np.ndarray  # (N, 2) width and height of the uploaded pictures

    @cached_property
    def planes(self) -> tuple[Column, Column, Column]:
        """Red, green and blue, (N, h, w) float32 each, 0..1."""
        # Sorted by colour as bytes, a quarter of the memory, and only then made longer.
        planes = np.ascontiguousarray(np.moveaxis(self.thumbnails, 3, 0)).astype(np.float32)
        planes /= 255
        return planes[0], planes[1], planes[2]

    @cached_property
    def grey(self) -> Column:
        """Luma, (N, h, w)."""
        red, green, blue = self.planes
        return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue

    @cached_property
    def moments(self) -> tuple[Column, Column]:
        """Mean and variance of luma, (N,) each."""
        return moments(self.grey)


def moments(planes: np.ndarray) -> tuple[Column, Column]:
    """Return mean and variance of each plane of (N, h, w), in one pass: several times as fast as ``np.var``."""
    flat = planes.reshape(len(planes), -1)
    mean = flat.sum(axis=1) / flat.shape[1]
    square = np.einsum("np,np->n", flat, flat) / flat.shape[1]
    return mean, np.maximum(square - mean * mean, 0)
