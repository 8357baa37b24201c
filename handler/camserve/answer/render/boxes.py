"""Boxes round a map's strong parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from camserve.values import Box

REACH = 2  # cells to each side
MOST_TOKENS = 64 * 64  # of a grid; a method at the input's resolution has more cells
MOST_BOXES = 10  # boxes of one map; a map at the input's resolution can fall into hundreds of specks

GridCell = tuple[int, int]  # row, column


def boxes(grid: np.ndarray, region: Box, threshold: float, of_tokens: bool = False) -> list[Box]:
    """Box each connected part of a map (h, w) that reaches ``threshold`` of its maximum, strongest sum first.

    A map ``of_tokens`` is averaged over 5 x 5 cells before, where its grid is a layer's: single tokens stand out.

    In pixels of the uploaded picture; at most ten, always whole cells, none for a signed or a blank map.
    Zhou et al. 2016 take 0.2, Selvaraju et al. 2017, section 4.1, 0.15; both box the largest part alone.
    """
    if grid.min() < 0 or grid.max() == 0:
        return []
    if of_tokens and grid.size <= MOST_TOKENS:
        grid = _averaged(grid)
    strongest = grid.max()
    parts = [np.array(part) for part in _connected(grid >= threshold * strongest)]
    parts.sort(key=lambda part: (-float(grid[part[:, 0], part[:, 1]].sum()), part.min(axis=0).tolist()))
    return [_around(part, grid.shape, region) for part in parts[:MOST_BOXES]]


def _averaged(grid: np.ndarray) -> np.ndarray:
    """Return the mean of the cells round each one, as far as they lie on the grid."""
    padded = np.pad(np.stack([grid, np.ones_like(grid)]), ((0, 0), (REACH, REACH), (REACH, REACH)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * REACH + 1,) * 2, axis=(1, 2))
    sums: np.ndarray = windows.sum(axis=(3, 4))
    return np.asarray(sums[0] / sums[1])


def _connected(hot: np.ndarray) -> Iterator[list[GridCell]]:
    """Yield the cells of each part; corners connect, since between two hot corners the enlarged map is hot too."""
    remaining = {(row, column) for row, column in np.argwhere(hot).tolist()}
    while remaining:
        part = [remaining.pop()]
        for row, column in part:  # grows while it is walked
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & remaining
            remaining -= near
            part.extend(near)
        yield part


def _around(part: np.ndarray, shape: tuple[int, ...], region: Box) -> Box:
    left, top, right, bottom = region
    across, down = (right - left) / shape[1], (bottom - top) / shape[0]
    first, last = part.min(axis=0).tolist(), (part.max(axis=0) + 1).tolist()
    return (left + first[1] * across, top + first[0] * down, left + last[1] * across, top + last[0] * down)
