"""Below which probability an archive's answers are often wrong, from labelled photos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from camserve.drift.records import wilson
from camserve.evaluate.plan import PhotoMeasures

LEAST = 40  # photos
NOT_CALIBRATED = f"no limit of LOW_CONFIDENCE: it needs {LEAST} labelled photos, of which some are answered wrong"


@dataclass(frozen=True)
class ConfidenceLimit:
    """A limit, and what it is worth."""

    below: float
    words: str


def calibrate_confidence(rows: Iterable[PhotoMeasures]) -> ConfidenceLimit | None:
    """Return the limit of LOW_CONFIDENCE; None: there are fewer than 40 photos, or all are right or all are wrong.

    As many answers lie below it as are wrong (Garg et al. 2022, arXiv:2201.04234). What it catches is told of each half
    of the photos, with the limit of the other.
    """
    labels: dict[str, set[int]] = {}
    best: dict[str, tuple[int, float]] = {}
    for row in rows:
        path = row.photo.rpartition("#")[0]  # a photo of several classes is measured for each
        labels.setdefault(path, set()).add(row.label)
        best[path] = row.predicted, row.confidence
    right = np.array([index in labels[path] for path, (index, _) in best.items()])
    confidence = np.array([value for _, value in best.values()])
    if len(right) < LEAST or right.all() or not right.any():
        return None
    is_low = np.zeros(len(right), bool)
    for half in (0, 1):
        is_low[1 - half :: 2] = confidence[1 - half :: 2] < _limit(confidence[half::2], right[half::2])
    below = round(float(_limit(confidence, right)), 4)
    words = (
        f"LOW_CONFIDENCE below a probability of {below:.2f}, from {len(right)} photos: it warns of "
        f"{_share(is_low[~right])} of the wrong answers and {_share(is_low[right])} of the right ones (95 % intervals)"
    )
    return ConfidenceLimit(below, words)


def _limit(confidence: np.ndarray, right: np.ndarray) -> float:
    ordered = np.sort(confidence)
    return float(ordered[min(int((~right).sum()), len(ordered) - 1)])


def _share(flags: Sequence[bool] | np.ndarray) -> str:
    low, high = wilson(int(np.sum(flags)), len(flags))
    return f"{np.mean(flags):.0%} [{low:.0%} {high:.0%}]"
