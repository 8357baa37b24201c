"""Photos whose classes are known."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camserve.errors import ConfigError


@dataclass(frozen=True)
class Photos:
    """Labelled photos."""

    paths: Sequence[Path]
    classes: np.ndarray  # (P,) int64


def read_photos(folder: Path) -> Photos:
    """Return the photos of a folder of images/ and labels.csv (file, class_index). ConfigError: it has none."""
    try:
        with (folder / "labels.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        classes = np.array([int(row["class_index"]) for row in rows])
        return Photos([folder / "images" / Path(row["file"]).name for row in rows], classes)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{folder} holds no images/ with labels.csv (file, class_index): {error}") from None
