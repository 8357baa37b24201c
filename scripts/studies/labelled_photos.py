"""Photos whose classes are known."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camserve.errors import ConfigError
from camserve.evaluate.photos import LabelledPhoto
from camserve.values import Box

SMALL = 0.5  # of the centre crop that the boxes cover at most


@dataclass(frozen=True)
class Photos:
    """Labelled photos."""

    paths: Sequence[Path]
    classes: np.ndarray  # (P,) int64


def data_folder() -> Path:
    """Return the folder that CAMSERVE_DATA names. ConfigError: it names none."""
    if not os.environ.get("CAMSERVE_DATA"):
        raise ConfigError("CAMSERVE_DATA names no folder of labelled photos")
    return Path(os.environ["CAMSERVE_DATA"])


def read_photos(folder: Path) -> Photos:
    """Return the photos of a folder of images/ and labels.csv (file, class_index). ConfigError: it has none."""
    try:
        with (folder / "labels.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        classes = np.array([int(row["class_index"]) for row in rows])
        return Photos([folder / "images" / Path(row["file"]).name for row in rows], classes)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{folder} holds no images/ with labels.csv (file, class_index): {error}") from None


@dataclass(frozen=True)
class BoxedPhotos:
    """P photos with the boxes of their objects."""

    labelled: Sequence[LabelledPhoto]
    is_small: Sequence[bool]  # whether the boxes cover at most half of the centre crop

    def draw(self, count: int, seed: int = 0) -> BoxedPhotos:
        """Return so many of them, drawn at random and in their order; all where there are no more."""
        count = min(count, len(self.labelled))
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.labelled), count, replace=False)).tolist()
        return BoxedPhotos([self.labelled[at] for at in chosen], [self.is_small[at] for at in chosen])

    @property
    def small(self) -> list[LabelledPhoto]:
        """The photos of small objects."""
        return [photo for photo, is_small in zip(self.labelled, self.is_small) if is_small]


def read_boxed_photos(folder: Path) -> BoxedPhotos:
    """Return the same photos with their boxes. ConfigError: labels.csv does not have them."""
    photos = read_photos(folder)
    try:
        with (folder / "labels.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        boxes = [_boxes(row["boxes_x1y1x2y2"]) for row in rows]
        small = [float(row["box_fraction_of_centre_224"] or 1) <= SMALL for row in rows]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{folder / 'labels.csv'} holds no boxes: {error}") from None
    return BoxedPhotos(list(map(LabelledPhoto, photos.paths, photos.classes.tolist(), boxes)), small)


def _boxes(text: str) -> tuple[Box, ...]:
    corners = (tuple(map(float, box.split())) for box in text.split(";") if box)
    return tuple((left, top, right, bottom) for left, top, right, bottom in corners)
