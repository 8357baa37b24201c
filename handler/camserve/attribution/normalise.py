"""From signed maps to the grids that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NOTHING, ONE = np.zeros(1, np.float32), np.ones(1, np.float32)  # arrays: NumPy turns numbers into these every time


class Map(NamedTuple):
    """One map with its measure."""

    grid: np.ndarray  # (h, w) float32: 0..1, or -1..1 for signed evidence
    scale: float  # grid * scale is the raw map
    positive: float  # share of the signed map's mass above 0
    negative: float  # and below
    total: float  # sum of the signed map
    mass: float  # of its positive part

    @property
    def blank(self) -> bool:
        """Whether there is no evidence of the kind that was asked for."""
        return self.scale == 0.0


def normalise_maps(signed: np.ndarray, evidence: Sequence[str]) -> list[Map]:
    """Turn signed maps (T, h, w) into the grids that are shown: ReLU, then division by the maximum.

    A map without evidence stays all zero with scale 0; nothing is added that would hide it. What is not finite is not
    mended.
    """
    flat = signed.reshape(len(signed), -1)
    raw = np.maximum(flat, NOTHING)
    with np.errstate(invalid="ignore"):
        masses = zip(np.add.reduce(raw, 1).tolist(), np.add.reduce(raw - flat, 1).tolist())
        both = [number for number, kind in enumerate(evidence) if kind == "signed"]
        if both:
            raw[both] = flat[both]
        scales = np.maximum.reduce(np.abs(raw) if both else raw, 1)
        grids = (raw / np.where(scales > NOTHING, scales, ONE)[:, None]).reshape(signed.shape)
    return [
        Map(
            grid,
            scale,
            positive / (positive + negative or 1.0),
            negative / (positive + negative or 1.0),
            positive - negative,
            positive,
        )
        for grid, scale, (positive, negative) in zip(grids, scales.tolist(), masses)
    ]
