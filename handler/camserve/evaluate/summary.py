"""From rows to figures: means with intervals, floors beside them, and comparisons with the default."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from camserve.drift.periods import holm
from camserve.errors import ConfigError
from camserve.evaluate.frames import FLOORS
from camserve.evaluate.measures import FITS, MEASURES, THRESHOLDS
from camserve.evaluate.plan import PhotoMeasures
from camserve.evaluate.statistics import bootstrap, sign_flip

NOTHING = "nothing was measured: measures of place need boxes or masks, absent more than 5 classes"
SURE = 0.05  # p below which a difference counts
FOUND: Mapping[str, Callable[[float], float]] = {"box": lambda iou: float(iou >= FITS), "mask": float}  # of an IoU
Columns = dict[str, dict[str, dict[str, float]]]  # measure -> variant -> photo -> value


@dataclass(frozen=True)
class Figure:
    """The mean of one measure under one variant, with its 95 % interval."""

    mean: float
    low: float
    high: float
    photos: int
    chance: float | None = None  # p of the difference to the default, corrected for the number of variants

    @property
    def differs(self) -> bool:
        """Whether the mean is another than the default's."""
        return self.chance is not None and self.chance < SURE

    @property
    def text(self) -> str:
        """The figure as in tables; a star marks another mean than the default's."""
        star = " *" if self.differs else ""
        return f"{self.mean:.2f} [{self.low:.2f} {self.high:.2f}]{star}"


@dataclass(frozen=True)
class Summary:
    """What all rows say."""

    photos: int
    accuracy: float
    variants: tuple[str, ...]  # the first is the default; floors come last
    figures: Mapping[str, Mapping[str, Figure]]  # measure -> variant -> figure
    thresholds: Mapping[str, Mapping[str, float]]  # box, mask -> variant -> what suits one half of the photos
    columns: Columns

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return {
            "photos": self.photos,
            "accuracy": round(self.accuracy, 4),
            **{f"{kind}_threshold": dict(chosen) for kind, chosen in self.thresholds.items()},
            "figures": {
                measure: {name: vars(figure) for name, figure in figures.items()}
                for measure, figures in self.figures.items()
            },
        }


def summarise(rows: Iterable[PhotoMeasures]) -> Summary:
    """Return the figures of all rows. ConfigError: there are no rows, or no figures."""
    columns: Columns = defaultdict(lambda: defaultdict(dict))
    fits: dict[str, dict[str, dict[str, Mapping[str, float]]]] = {kind: defaultdict(dict) for kind in FOUND}
    variants: dict[str, None] = {}
    right: dict[str, bool] = {}
    for row in rows:
        variants[row.variant] = None
        right[row.photo] = row.label == row.predicted
        for measure, value in row.values.items():
            columns[measure][row.variant][row.photo] = value
        for kind, overlaps in row.overlaps.items():
            fits[kind][row.variant][row.photo] = overlaps
    if not right:
        raise ConfigError("no photo could be measured: the lines above say why")
    thresholds: dict[str, dict[str, float]] = {}
    for kind, by_variant in fits.items():
        chosen = {name: best_threshold(list(by_photo.values())[::2], kind) for name, by_photo in by_variant.items()}
        thresholds[kind] = chosen
        for name, by_photo in by_variant.items():
            if held_out := list(by_photo.items())[1::2]:
                columns[kind][name] = {photo: FOUND[kind](iou[f"{chosen[name]:g}"]) for photo, iou in held_out}
    figures = {measure: _figures(columns[measure]) for measure in MEASURES if columns.get(measure)}
    if not figures:
        raise ConfigError(NOTHING)
    accuracy = float(np.mean(list(right.values())))
    return Summary(len(right), accuracy, tuple(variants), figures, thresholds, dict(columns))


def best_threshold(overlaps: Sequence[Mapping[str, float]], kind: str = "box") -> float:
    """Return the threshold at which most first boxes fit, or masks overlap most; of equal ones, the larger mean IoU."""

    def worth(threshold: float) -> tuple[float, float]:
        found = np.array([iou[f"{threshold:g}"] for iou in overlaps])
        return float(np.mean([FOUND[kind](iou) for iou in found])), float(found.mean())

    return max(THRESHOLDS, key=worth)


def _figures(columns: Mapping[str, Mapping[str, float]]) -> dict[str, Figure]:
    """Return the figure of each variant; the first one is what others are compared with, photo by photo."""
    (first, *_) = columns
    chances = {
        name: sign_flip(differences)
        for name, values in columns.items()
        if name != first and name not in FLOORS and len(differences := paired(columns[first], values))
    }
    corrected = dict(zip(chances, holm(list(chances.values()))))
    return {
        name: Figure(*bootstrap(np.array(list(values.values()))), len(values), corrected.get(name))
        for name, values in columns.items()
    }


def paired(usual: Mapping[str, float], values: Mapping[str, float]) -> np.ndarray:
    """Return the differences (P,) of the photos that both have."""
    return np.array([values[photo] - usual[photo] for photo in values if photo in usual])


def table(summary: Summary) -> list[tuple[str, ...]]:
    """Return a table: a row for each variant and floor, a column for each measure."""
    measures = list(summary.figures)
    rows = [("map", *measures)]
    for variant in summary.variants:
        cells = (summary.figures[measure].get(variant) for measure in measures)
        rows.append((variant, *("" if cell is None else cell.text for cell in cells)))
    return rows
