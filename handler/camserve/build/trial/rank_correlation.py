"""How like two maps are, whatever their scale."""

from __future__ import annotations

import numpy as np


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of two maps (h, w); 0 where one is constant, None: they differ in shape."""
    if one.shape != other.shape:
        return None
    first, second = _ranks(one), _ranks(other)
    if not first.any() or not second.any():
        return 0.0
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def _ranks(grid: np.ndarray) -> np.ndarray:
    """Return each cell's rank, equal ones their mean, less the mean of all."""
    _, place, counts = np.unique(grid.ravel(), return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]
    return np.asarray(ranks - ranks.mean())
