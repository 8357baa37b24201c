"""What is measured of every request, vectorised over a batch: predictions, explanations, inputs.

A signal is a number whose distribution is compared with that of the reference photos. The table
``SIGNALS`` is the one list of them: metrics, baseline, rules and dashboards follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

BINS = 10
FEW_BINS = 5  # sizes and shapes come in few kinds, and most maps have nothing negative
TINY = 1e-12  # keeps the logarithm of an empty cell finite
LEAST_SHARE = 1e-3  # of a map, as if every ring held it: else the logarithm of an empty one outweighs all others
Column = Any  # (N,) floats, one a row; the stubs of numpy lose the type of most arithmetic

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Predictions:
    """The scores of N rows."""

    scores: np.ndarray  # (N, C) float32, before softmax
    probabilities: np.ndarray  # (N, C) float32

    @cached_property
    def confidence(self) -> Column:
        """The largest probability of each row, (N,)."""
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
        """The predicted class of each row, (N,) int64."""
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


@dataclass(frozen=True)
class Signal:
    """One number a row."""

    family: str  # predictions, explanations, inputs
    measure: Callable[[Any], Column]  # the family's view -> one value a row
    bounds: tuple[float, float] | None  # what it cannot leave; None: it has no bounds
    unit: str
    meaning: str
    cause: str  # the likeliest one when it drifts
    bins: int = BINS


def _confidence(seen: Predictions) -> Column:
    return seen.confidence


def _margin(seen: Predictions) -> Column:
    others = seen.probabilities.copy()
    np.put_along_axis(others, others.argmax(axis=1, keepdims=True), 0, axis=1)
    return seen.confidence - others.max(axis=1)


def _entropy(seen: Predictions) -> Column:
    # Those of independent labels do not add up to 1.
    each = seen.probabilities / seen.probabilities.sum(axis=1, keepdims=True)
    return -(each * np.log(each + TINY)).sum(axis=1) / np.log(max(2, each.shape[1]))


def _energy(seen: Predictions) -> Column:
    return seen.energy


def _log_mass(seen: Maps) -> Column:
    return np.log(seen.mass)


def _peak(seen: Maps) -> Column:
    return seen.raw.max(axis=(1, 2))


def _area(seen: Maps) -> Column:
    return 1 / (seen.cells * np.einsum("mp,mp->m", seen.shares, seen.shares))


def _centroid_x(seen: Maps) -> Column:
    return seen.places[:, 0]


def _centroid_y(seen: Maps) -> Column:
    return seen.places[:, 1]


def _elongation(seen: Maps) -> Column:
    x, y, _, xx, yy = seen.places.T
    return np.log((xx - x * x) / (yy - y * y)) / 2


def _border(seen: Maps) -> Column:
    return seen.places[:, 2]


def _border_mass(seen: Maps) -> Column:
    return np.log(seen.mass * (seen.places[:, 2] + LEAST_SHARE))


def _negative(seen: Maps) -> Column:
    return seen.negative


def _brightness(seen: Inputs) -> Column:
    return seen.moments[0]


def _contrast(seen: Inputs) -> Column:
    return np.sqrt(seen.moments[1])


def _sharpness(seen: Inputs) -> Column:
    grey = seen.grey
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    for each in (grey[:, 1:-1, :-2], grey[:, 1:-1, 2:]):
        laplacian += each
    laplacian -= 4 * grey[:, 1:-1, 1:-1]
    return np.log(moments(laplacian)[1] + TINY)


def _saturation(seen: Inputs) -> Column:
    red, green, blue = seen.planes
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    return 1 - ((low + TINY) / (high + TINY)).sum(axis=(1, 2)) / low[0].size


def _red_minus_blue(seen: Inputs) -> Column:
    red, _, blue = seen.planes
    return (red - blue).sum(axis=(1, 2)) / red[0].size


def _aspect(seen: Inputs) -> Column:
    return np.log(seen.sizes[:, 0] / seen.sizes[:, 1])


def _log_pixels(seen: Inputs) -> Column:
    return np.log10(seen.sizes[:, 0] * seen.sizes[:, 1])


UNIT = (0.0, 1.0)
SUBJECT = "the subject changed, or the model looks at something else"
SHAPE = "pictures are squeezed, stretched or turned before they are shown"
CAMERA = "the camera, its place or the cropping before the upload changed"

SIGNALS: Mapping[str, Signal] = {
    "confidence": Signal(
        "predictions", _confidence, UNIT, "probability", "probability of the best class", "pictures became harder"
    ),
    "margin": Signal(
        "predictions", _margin, UNIT, "probability", "best minus second probability", "classes became easier to mix up"
    ),
    "entropy": Signal(
        "predictions",
        _entropy,
        UNIT,
        "share of ln K",
        "how evenly the probability is spread over all classes",
        "pictures became harder, or show no known class",
    ),
    "energy": Signal(
        "predictions",
        _energy,
        None,
        "score",
        "logsumexp of the scores (Liu et al. 2020, arXiv:2010.03759); low is unlike the training data",
        "pictures of a kind that the model does not know",
    ),
    "log_mass": Signal(
        "explanations", _log_mass, None, "ln score", "how much positive evidence the map holds", "weaker evidence"
    ),
    "peak": Signal("explanations", _peak, None, "score", "the strongest cell of the map", "weaker evidence"),
    "area": Signal(
        "explanations",
        _area,
        UNIT,
        "share of the map",
        "effective area of the evidence: its inverse participation ratio",
        "the subject became larger or smaller, or is hidden",
    ),
    "centroid_x": Signal(
        "explanations", _centroid_x, UNIT, "share of the width", "where the evidence lies, left to right", CAMERA
    ),
    "centroid_y": Signal(
        "explanations", _centroid_y, UNIT, "share of the height", "where the evidence lies, top to bottom", CAMERA
    ),
    "elongation": Signal(
        "explanations",
        _elongation,
        None,
        "ln width/height",
        "how wide the evidence lies for its height: the ratio of its standard deviations across and down",
        SHAPE,
    ),
    "border": Signal(
        "explanations", _border, UNIT, "share of the mass", "evidence in the outer ring of the map", CAMERA
    ),
    "border_mass": Signal(
        "explanations", _border_mass, None, "ln score", "how much positive evidence the outer ring holds", CAMERA
    ),
    "negative": Signal(
        "explanations", _negative, UNIT, "share of the mass", "evidence against the predicted class", SUBJECT, FEW_BINS
    ),
    "brightness": Signal("inputs", _brightness, UNIT, "luma", "mean luma", "lighting or exposure changed"),
    "contrast": Signal(
        "inputs", _contrast, (0.0, 0.5), "luma", "standard deviation of luma", "lighting, fog or exposure changed"
    ),
    "sharpness": Signal(
        "inputs",
        _sharpness,
        None,
        "ln luma squared",
        "log variance of the Laplacian",
        "focus, compression or the resizing before the upload changed",
    ),
    "saturation": Signal("inputs", _saturation, UNIT, "HSV", "mean saturation", "colour processing changed"),
    "red_minus_blue": Signal(
        "inputs",
        _red_minus_blue,
        (-1.0, 1.0),
        "share",
        "mean red minus mean blue",
        "white balance changed, or red and blue are swapped",
    ),
    "aspect": Signal(
        "inputs",
        _aspect,
        None,
        "ln width/height",
        "shape of the uploaded picture",
        "another client or another cropping",
        FEW_BINS,
    ),
    "log_pixels": Signal(
        "inputs", _log_pixels, None, "log10 pixels", "size of the uploaded picture", "another client", FEW_BINS
    ),
}
