"""From one forward pass to the signals of its rows.

While a client waits, only what the signals are computed from is put aside, as small as it can be. Computing them for
many rows at once costs hardly more than for one, and can wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from camserve.monitor.signals import SIGNALS, Column, Inputs, Maps, Predictions
from camserve.values import Explanation, Options, Request

THUMBNAIL = 56  # pixels a side, or little more
WATCHED_EVIDENCE = ("for", "signed")  # both show the positive part
NAMES = tuple(SIGNALS)
COLUMNS = {
    family: [column for column, each in enumerate(SIGNALS.values()) if each.family == family]
    for family in ("predictions", "explanations", "inputs")
}


@dataclass(frozen=True)
class Material:
    """What the signals of N rows are computed from."""

    predictions: Predictions
    inputs: Inputs
    maps: Maps | None  # of the rows that have one
    mapped: np.ndarray  # (M,) int64: which rows these are

    def __len__(self) -> int:
        """Return N."""
        return len(self.predictions.scores)

    def column(self, name: str) -> Column:
        """Return one signal of every row, (N,) float64; NaN where a row has none."""
        signal = SIGNALS[name]
        if signal.family == "explanations":
            column = np.full(len(self), np.nan)
            if self.maps is not None:
                column[self.mapped] = signal.measure(self.maps)
            return column
        return signal.measure(self.predictions if signal.family == "predictions" else self.inputs)

    def values(self) -> np.ndarray:
        """Return every signal of every row, (N, S) float64, columns as in ``SIGNALS``."""
        if not len(self):
            return np.zeros((0, len(NAMES)))
        return np.stack([self.column(name) for name in NAMES], axis=1, dtype=np.float64, casting="same_kind")


def join(parts: Sequence[Material]) -> Material:
    """Put the rows of several forward passes together."""
    starts = np.cumsum([0, *map(len, parts)])
    maps = [each.maps for each in parts if each.maps is not None]
    return Material(
        Predictions(
            np.concatenate([each.predictions.scores for each in parts]),
            np.concatenate([each.predictions.probabilities for each in parts]),
        ),
        Inputs(
            np.concatenate([each.inputs.thumbnails for each in parts]),
            np.concatenate([each.inputs.sizes for each in parts]),
        ),
        Maps(np.concatenate([each.raw for each in maps]), np.concatenate([each.negative for each in maps]))
        if maps
        else None,
        np.concatenate([each.mapped + start for each, start in zip(parts, starts)]),
    )


@dataclass(frozen=True)
class Measured:
    """N rows of one forward pass, and their signals when somebody asks for them."""

    requests: tuple[Request, ...]  # whose rows they are
    material: Material
    blank: np.ndarray  # (N,) bool: the watched map holds no evidence
    flags: Mapping[str, np.ndarray] = field(default_factory=dict)  # what the baseline says of them: (N,) bool

    @cached_property
    def values(self) -> np.ndarray:
        """The signals of every row, (N, S) float64, columns as in ``SIGNALS``; NaN where a row has none."""
        return self.material.values()

    @property
    def classes(self) -> Column:
        """The predicted class of each row, (N,) int64."""
        return self.material.predictions.classes

    def row(self, number: int) -> dict[str, float]:
        """Return the signals that one row has."""
        return {name: float(each) for name, each in zip(NAMES, self.values[number]) if np.isfinite(each)}


@dataclass(frozen=True)
class Watch:
    """Which maps are compared with the reference: those that a request gets that asks for nothing special."""

    usual: Options
    layer: str

    def watches(self, request: Request, explanation: Explanation, best: int) -> bool:
        """Whether this map is of the usual method, layer and target, and not a caller's special wish."""
        # Rows that a condition picked are another population than rows that a caller picked.
        alike = request.options.explain == (self.usual.explain or True)
        return (
            alike
            and explanation.status in ("ok", "blank")
            and explanation.method == self.usual.methods[0]
            and explanation.layer == self.layer
            and explanation.evidence in WATCHED_EVIDENCE
            and explanation.contrast is None
            and explanation.target.prediction.index == best
        )


@dataclass(frozen=True)
class Shown:
    """What one forward pass of N rows showed."""

    requests: Sequence[Request]
    scores: np.ndarray  # (N, C) float32, before softmax
    probabilities: np.ndarray  # (N, C) float32
    thumbnails: np.ndarray  # (N, h, w, 3) uint8, see ``thumbnails``
    explanations: Sequence[Sequence[Explanation]]  # of each row


def measure(shown: Shown, watch: Watch) -> Measured:
    """Put aside what the signals of every row are computed from whose scores are finite."""
    finite = np.isfinite(shown.scores).all(axis=1)
    kept = np.flatnonzero(finite).tolist()
    requests = tuple(shown.requests[row] for row in kept)
    scores = (shown.scores, shown.probabilities)
    predictions = Predictions(*(scores if len(kept) == len(finite) else (each[finite] for each in scores)))
    sizes = np.array([(each.picture.width, each.picture.height) for each in requests], float).reshape(-1, 2)
    watched = [
        _watched(watch, request, shown.explanations[row], best)
        for row, request, best in zip(kept, requests, predictions.classes.tolist())
    ]
    blank = np.array([each is not None and each.status == "blank" for each in watched], bool)
    mapped = np.array([row for row, each in enumerate(watched) if each is not None and not blank[row]], np.int64)
    maps = _maps([each for each in watched if each is not None and each.status == "ok"])
    inputs = Inputs(shown.thumbnails if len(kept) == len(finite) else shown.thumbnails[finite], sizes)
    return Measured(requests, Material(predictions, inputs, maps, mapped), blank)


def _watched(watch: Watch, request: Request, explanations: Sequence[Explanation], best: int) -> Explanation | None:
    return next((each for each in explanations if watch.watches(request, each, best)), None)


def _maps(explanations: Sequence[Explanation]) -> Maps | None:
    raw = [np.maximum(each.grid, 0) * each.scale for each in explanations if each.grid is not None]
    shares = [each.balance.get("negative") or 0.0 for each in explanations]
    return Maps(np.stack(raw), np.array(shares)) if raw else None


def thumbnails(requests: Sequence[Request]) -> np.ndarray:
    """Return (N, h, w, 3) uint8: a grid of the pixels that the network saw."""
    step = max(1, min(requests[0].pixels.shape[:2]) // THUMBNAIL)
    return np.stack([each.pixels[step // 2 :: step, step // 2 :: step] for each in requests])


def flagged(measured: Measured, flags: Mapping[str, np.ndarray]) -> Measured:
    """Return the same rows with what the baseline says of them."""
    return replace(measured, flags={**flags, "blank": measured.blank})
