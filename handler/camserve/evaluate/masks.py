"""Which pixels of a picture show an object: polygons, run lengths and PNG files of annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from camserve.errors import ConfigError

BITS, MORE, SIGN = 5, 0x20, 0x10  # of a character of COCO's compressed run lengths


@dataclass(frozen=True)
class ObjectMask:
    """The mask of one object, read when it is needed."""

    polygons: tuple[tuple[float, ...], ...] = ()  # x, y, x, y, ... in pixels of the upright picture
    runs: tuple[int, ...] = ()  # of pixels outside and inside by turns, down the columns
    file: Path | None = None  # a picture of the same size
    value: int | None = None  # of the object's pixels there; None: all above 0

    def describe(self) -> list[Any]:
        """Return what tells this mask from others, as JSON values."""
        file = None if self.file is None else [self.file.name, self.file.stat().st_size]
        return [self.polygons, self.runs, file, self.value]


def mask_of_coco(segmentation: Any) -> ObjectMask | None:
    """Return a mask of COCO's ``segmentation``: polygons, or run lengths, as numbers or a text.

    KeyError, TypeError, ValueError: it is none.
    """
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return ObjectMask(runs=_read_runs(counts) if isinstance(counts, str) else tuple(map(int, counts)))
    polygons = tuple(tuple(map(float, polygon)) for polygon in segmentation)
    if odd := next((len(polygon) for polygon in polygons if len(polygon) % 2), None):
        raise ValueError(f"a polygon of {odd} numbers is no list of x, y")
    return ObjectMask(polygons) if polygons else None


def _read_runs(text: str) -> tuple[int, ...]:
    """Return the run lengths that COCO writes in numbers of five bits, from the third on less the last but one.

    ValueError: it is cut off.
    """
    found: list[int] = []
    place = 0
    while place < len(text):
        number = shift = 0
        is_more = True
        while is_more:
            if place == len(text):
                raise ValueError("compressed run lengths end in the middle of a number")
            bits = ord(text[place]) - 48
            number |= (bits & 0x1F) << BITS * shift
            is_more = bool(bits & MORE)
            place, shift = place + 1, shift + 1
            if not is_more and bits & SIGN:
                number |= -1 << BITS * shift
        found.append(number + (found[-2] if len(found) > 2 else 0))
    return tuple(found)


def read_mask(masks: Iterable[ObjectMask], size: tuple[int, int]) -> np.ndarray:
    """Return which pixels of a picture of ``size`` (H, W) show one of the objects. ConfigError: a mask does not fit."""
    found = np.zeros(size, bool)
    for mask in masks:
        if mask.file is not None:
            found |= _read_picture(mask.file, mask.value, size)
        elif mask.runs:
            found |= _fill_runs(mask.runs, size)
        else:
            found |= _fill_polygons(mask.polygons, size)
    return found


def _read_picture(file: Path, value: int | None, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            # A palette's index is the number of the object, whatever its colour.
            values = np.asarray(opened if opened.mode in ("P", "L", "1", "I;16", "I") else opened.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{file} is no mask: {error}") from None
    if values.shape != size:
        raise ConfigError(f"{file} has {values.shape[1]} x {values.shape[0]} pixels, its photo {size[1]} x {size[0]}")
    return np.asarray(values > 0 if value is None else values == value)


def _fill_runs(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    if sum(runs) != size[0] * size[1] or min(runs) < 0:
        raise ConfigError(f"a mask's run lengths are of {sum(runs)} pixels, its photo has {size[0] * size[1]}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[1], size[0]).T


def _fill_polygons(polygons: Iterable[tuple[float, ...]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose middle lies inside a polygon: a line to the left of it crosses the edge an odd time."""
    found = np.zeros(size, bool)
    middles = np.arange(size[1]) + 0.5
    for polygon in polygons:
        starts = np.array(polygon).reshape(-1, 2)
        ends = np.roll(starts, -1, axis=0)
        for row in range(size[0]):
            crossing = (starts[:, 1] <= row + 0.5) != (ends[:, 1] <= row + 0.5)
            (x, y), (to_x, to_y) = starts[crossing].T, ends[crossing].T
            places = np.sort(x + (row + 0.5 - y) * (to_x - x) / (to_y - y))
            found[row] |= np.searchsorted(places, middles) % 2 == 1
    return found
