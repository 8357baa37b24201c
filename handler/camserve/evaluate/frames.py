"""Maps and boxes in the frame of the network's input, and the floors that a map must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camserve.values import Box

WIDTH = 0.25  # of the centre's bell curve, of the side of the map

Size = tuple[int, int]  # rows, columns


def enlarge(grid: np.ndarray, size: Size) -> np.ndarray:
    """Return a map (h, w) at the input's resolution, bilinear as in the papers of the measures."""
    values = torch.from_numpy(grid.astype(np.float32))[None, None]
    return functional.interpolate(values, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


def box_mask(boxes: Sequence[Box], region: Box, size: Size) -> np.ndarray:
    """Return which pixels (H, W) of the input lie in boxes of the uploaded picture, of which it shows ``region``."""
    left, top, right, bottom = region
    rows = top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]
    columns = left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]
    mask = np.zeros(size, bool)
    for box in boxes:
        mask |= np.outer((rows >= box[1]) & (rows < box[3]), (columns >= box[0]) & (columns < box[2]))
    return mask


def place_mask(mask: np.ndarray, region: Box, size: Size) -> np.ndarray:
    """Return which pixels (H, W) of the input show an object, of which ``mask`` is in the uploaded picture."""
    left, top, right, bottom = region
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int)
    inside = np.outer((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    found = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))]
    return np.asarray(found & inside)


def seed_of(name: str, seed: int) -> int:
    """Return a seed that one photo keeps wherever it stands among others."""
    return crc32(f"{seed}:{name}".encode())


def _centre(_pixels: Tensor, size: Size, _seed: int) -> np.ndarray:
    down, across = (np.exp(-(((np.arange(side) + 0.5) / side - 0.5) ** 2) / (2 * WIDTH**2)) for side in size)
    return np.outer(down, across)


def _uniform(_pixels: Tensor, size: Size, _seed: int) -> np.ndarray:
    return np.ones(size)


def _random(_pixels: Tensor, size: Size, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(size)


def _edges(pixels: Tensor, size: Size, _seed: int) -> np.ndarray:
    """Return the size of the brightness's slope, averaged over the cells."""
    grey = pixels[0].float().mean(dim=0).cpu()
    down, across = torch.gradient(grey)
    slope = torch.hypot(down, across)[None, None]
    return functional.adaptive_avg_pool2d(slope, size)[0, 0].numpy()


FLOORS: Mapping[str, Callable[[Tensor, Size, int], np.ndarray]] = {  # (1, C, H, W) pixels, grid, seed -> map
    "centre": _centre,
    "uniform": _uniform,
    "random": _random,
    "edges": _edges,
}
