"""From one forward pass to the signals of its rows.

While a client waits, only what the signals are computed from is put aside, in the form that takes the least time.
Computing them for many rows at once costs hardly more than for one, and can wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

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


class PixelRows(NamedTuple):
    """Every so many lines of what the network saw: quickly put aside, since a line's pixels lie together."""

    pixels: np.ndarray  # (N, h, W, 3) uint8
    step: int  # lines from one to the next

    @property
    def thumbnails(self) -> np.ndarray:
        """A grid of the pixels, (N, h, w, 3) uint8."""
        return self.pixels[:, :, self.step // 2 :: self.step]


@dataclass(frozen=True)
class SignalInputs:
    """What the signals of N rows are computed from."""

    predictions: Predictions
    lines: PixelRows
    sizes: Sequence[tuple[float, float]]  # width and height of each uploaded picture
    watched: Sequence[Explanation | None]  # the map of each row that is compared, if it has one

    def __len__(self) -> int:
        """Return N."""
        return len(self.predictions.scores)

    @cached_property
    def inputs(self) -> Inputs:
        """What the network was shown."""
        return Inputs(self.lines.thumbnails, np.array(self.sizes, float).reshape(-1, 2))

    @property
    def blank(self) -> list[bool]:
        """Which of the N rows have a watched map that holds no evidence."""
        return [each is not None and each.status == "blank" for each in self.watched]

    @cached_property
    def mapped(self) -> np.ndarray:
        """Which rows have a map that is not blank, (M,) int64."""
        return np.flatnonzero([each is not None and each.status == "ok" for each in self.watched])

    @cached_property
    def maps(self) -> Maps | None:
        """These maps."""
        told = [each for each in self.watched if each is not None and each.status == "ok"]
        if not told:
            return None
        grids = np.maximum(np.stack([each.grid for each in told if each.grid is not None]), 0)
        raw = grids * np.array([each.scale for each in told], np.float32)[:, None, None]
        return Maps(raw, np.array([each.balance.get("negative") or 0.0 for each in told]))

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


def join(parts: Sequence[SignalInputs]) -> SignalInputs:
    """Put the rows of several forward passes together."""
    predictions = [each.predictions for each in parts]
    return SignalInputs(
        Predictions(
            np.concatenate([each.scores for each in predictions]),
            np.concatenate([each.probabilities for each in predictions]),
        ),
        PixelRows(np.concatenate([each.lines.pixels for each in parts]), parts[0].lines.step),
        [size for each in parts for size in each.sizes],
        [explanation for each in parts for explanation in each.watched],
    )


@dataclass(frozen=True)
class MeasuredRows:
    """N rows of one forward pass, and their signals when somebody asks for them."""

    requests: tuple[Request, ...]  # whose rows they are
    material: SignalInputs
    flags: Sequence[Sequence[str]] = ()  # what the baseline says of each

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
class PassObservation:
    """What one forward pass showed of N rows."""

    requests: Sequence[Request]
    scores: np.ndarray  # (N, C) float32, before softmax
    probabilities: np.ndarray  # (N, C) float32
    classes: Sequence[int]  # the predicted one of each row
    lines: PixelRows
    explanations: Sequence[Sequence[Explanation]]  # of each row

    def only(self, rows: Sequence[int]) -> PassObservation:
        """Return the rows of these numbers."""
        if len(rows) == len(self.requests):
            return self
        return PassObservation(
            [self.requests[row] for row in rows],
            self.scores[rows],
            self.probabilities[rows],
            [self.classes[row] for row in rows],
            PixelRows(self.lines.pixels[rows], self.lines.step),
            [self.explanations[row] for row in rows],
        )


def measure(shown: PassObservation, watch: Watch, judge: Callable[[Predictions, int, int], list[str]]) -> MeasuredRows:
    """Put aside what the signals of every row are computed from; ``judge`` flags a row with its best class.

    All scores must be finite.
    """
    predictions = Predictions(shown.scores, shown.probabilities)
    watched = [
        next((each for each in told if watch.watches(request, each, best)), None)
        for request, told, best in zip(shown.requests, shown.explanations, shown.classes)
    ]
    sizes = [(each.picture.width, each.picture.height) for each in shown.requests]
    material = SignalInputs(predictions, shown.lines, sizes, watched)
    flags = [judge(predictions, row, best) for row, best in enumerate(shown.classes)]
    for told, blank in zip(flags, material.blank):
        if blank:
            told.append("blank")
    return MeasuredRows(tuple(shown.requests), material, flags)


def sample_pixels(requests: Sequence[Request]) -> PixelRows:
    """Put aside a part of the pixels that the network is about to see."""
    step = max(1, min(requests[0].pixels.shape[:2]) // THUMBNAIL)
    return PixelRows(np.stack([each.pixels[step // 2 :: step] for each in requests]), step)
