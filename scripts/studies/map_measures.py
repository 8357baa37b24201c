"""What maps of convolutional networks are worth: tables from the room ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camserve.evaluate.frames import FLOORS
from camserve.evaluate.measures import FITS, MEASURES
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures, Variant
from camserve.evaluate.run import evaluate, name_of
from camserve.evaluate.select import choose_photos
from camserve.evaluate.statistics import interval
from camserve.evaluate.summary import Summary, summarise
from camserve.serving.pipeline import Pipeline
from camserve.values import Progress
from labelled_photos import BoxedPhotos

METHODS = ("gradcam", "layercam", "xgradcam", "gradcam++", "eigengradcam", "eigencam")
FEWER, STEPS = 16, 10  # photos and steps of measures that run the network again and again
CHANGED = METHODS[:2] + METHODS[4:]  # whose pixels are changed
EARLIER, USUAL = "0.15", "0.2"  # thresholds of boxes
COSTLY = frozenset({"change", "shape", "stable"})


@dataclass(frozen=True)
class Maps:
    """The measures of one network's maps."""

    small: Summary  # of place, on photos of small objects
    all: Summary  # of place, on all photos
    fewer: Summary  # of all else, on some photos
    overlaps: Mapping[str, Sequence[Mapping[str, float]]]  # of the first boxes of Grad-CAM: all, small


def measure_maps(pipeline: Pipeline, photos: BoxedPhotos, report: Progress, keep: Path | None = None) -> Maps:
    """Ask for every photo's label under each of METHODS; ``keep`` begins the names of files of rows."""
    places, changes = (keep and keep.with_suffix(f".{kind}.jsonl") for kind in ("place", "change"))
    plan = EvaluationPlan(tuple(map(Variant, METHODS)), frozenset({"place"}))
    rows = list(evaluate(pipeline, photos.labelled, plan, report, places))
    names = {name_of(photo) for photo in photos.small}
    small = [row for row in rows if row.photo in names]
    some: list[LabelledPhoto] = choose_photos(photos.labelled, FEWER, 0)
    costly = EvaluationPlan(tuple(map(Variant, CHANGED)), COSTLY, steps=STEPS)
    fewer = summarise(evaluate(pipeline, some, costly, report, changes))
    overlaps = {"all": _overlaps(rows), "small": _overlaps(small)}
    return Maps(summarise(small), summarise(rows), fewer, overlaps)


def _overlaps(rows: Iterable[PhotoMeasures]) -> list[Mapping[str, float]]:
    return [row.overlaps["box"] for row in rows if row.variant == METHODS[0] and "box" in row.overlaps]


def place_table(found: Mapping[str, Maps]) -> str:
    """Return where maps point, and how much of them lies in the boxes, for small objects."""
    head = "| map | " + " | ".join(f"{name}: pointing | energy" for name in found) + " |"
    rows = [
        f"| `{name}` | "
        + " | ".join(
            f"{_text(maps.small, 'pointing', name)} | {_text(maps.small, 'energy', name)}" for maps in found.values()
        )
        + " |"
        for name in (*METHODS, *FLOORS)
    ]
    return "\n".join([head, "|---" * (1 + 2 * len(found)) + "|", *rows])


def box_table(found: Mapping[str, Maps]) -> str:
    """Return for how many objects the first box reaches an IoU of .5."""
    head = ("network", "objects", "the whole crop", "at 15 %", "at 20 %", "calibrated, on the other half", "threshold")
    rows = [
        (
            *(name, words),
            _text(summary, "box", "uniform"),
            *(_found(maps.overlaps[words], threshold) for threshold in (EARLIER, USUAL)),
            _text(summary, "box", METHODS[0]),
            f"{summary.thresholds[METHODS[0]]:.0%}",
        )
        for name, maps in found.items()
        for words, summary in (("all", maps.all), ("small", maps.small))
    ]
    lines = [" | ".join(row) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(head) + "|", *(f"| {line} |" for line in lines[1:])])


def change_table(found: Mapping[str, Maps]) -> str:
    """Return the measures of change, shape and stability."""
    names = [name for name, measure in MEASURES.items() if measure.group in COSTLY]
    rows = [
        f"| {network} | `{variant}` | " + " | ".join(_text(maps.fewer, name, variant) for name in names) + " |"
        for network, maps in found.items()
        for variant in (*CHANGED, *FLOORS)
    ]
    return "\n".join([f"| network | map | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|", *rows])


def _found(overlaps: Sequence[Mapping[str, float]], threshold: str) -> str:
    return interval(np.array([overlap[threshold] >= FITS for overlap in overlaps], float))


def _text(summary: Summary, measure: str, variant: str) -> str:
    figure = summary.figures[measure].get(variant)
    return "" if figure is None else figure.text
