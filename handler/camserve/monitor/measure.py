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

from camserve.monitor.signals import NAMES, SIGNALS
from camserve.monitor.views import Column, Inputs, Maps, Predictions
from camserve.values import Explanation, Options, Request

GRID_SIDE = 56  # pixels that are kept of the shorter side, or little more
POSITIVE = ("for", "signed")  # kinds of evidence whose map shows the positive part


class PixelRows(NamedTuple):
    """Every ``step``-th row of the input pixels; rows are contiguous, so that this copy is cheap."""

    pixels: np.ndarray  # (N, h, W, 3) uint8
    step: int

    @property
    def thumbnails(self) -> np.ndarray:
        """A grid of the pixels, (N, h, w, 3) uint8."""
        return self.pixels[:, :, self.step // 2 :: self.step]


@dataclass(frozen=True)
class SignalInputs:
    """What the signals of N rows are computed from."""

    predictions: Predictions
    pixel_rows: PixelRows
    sizes: Sequence[tuple[float, float]]  # width and height of each uploaded picture
    compared: Sequence[Explanation | None]  # the map of each row that is compared with the baseline

    def __len__(self) -> int:
        """Return N."""
        return len(self.predictions.scores)

    @cached_property
    def inputs(self) -> Inputs:
        """What the network was shown."""
        return Inputs(self.pixel_rows.thumbnails, np.array(self.sizes, float).reshape(-1, 2))

    @property
    def blank(self) -> list[bool]:
        """Which of the N rows have a compared map that holds no evidence."""
        return [explanation is not None and explanation.status == "blank" for explanation in self.compared]

    @cached_property
    def mapped(self) -> np.ndarray:
        """Which rows have a compared map that holds evidence, (M,) int64."""
        return np.flatnonzero([explanation is not None and explanation.status == "ok" for explanation in self.compared])

    @cached_property
    def maps(self) -> Maps | None:
        """These maps."""
        shown = [explanation for explanation in self.compared if explanation is not None and explanation.status == "ok"]
        if not shown:
            return None
        grids = np.maximum(np.stack([explanation.grid for explanation in shown if explanation.grid is not None]), 0)
        raw = grids * np.array([explanation.scale for explanation in shown], np.float32)[:, None, None]
        return Maps(raw, np.array([explanation.balance.get("negative") or 0.0 for explanation in shown]))

    def column(self, name: str) -> Column:
        """Return one signal of every row, (N,) float64; NaN where a row has none."""
        signal = SIGNALS[name]
        if signal.family == "predictions" and self.predictions.probabilities is None:
            return np.full(len(self), np.nan)
        if signal.family == "explanations":
            column = np.full(len(self), np.nan)
            if self.maps is not None:
                column[self.mapped] = signal.formula(self.maps)
            return column
        return signal.formula(self.predictions if signal.family == "predictions" else self.inputs)

    def values(self) -> np.ndarray:
        """Return every signal of every row, (N, S) float64, columns as in ``SIGNALS``."""
        if not len(self):
            return np.zeros((0, len(NAMES)))
        return np.stack([self.column(name) for name in NAMES], axis=1, dtype=np.float64, casting="same_kind")


def join_inputs(parts: Sequence[SignalInputs]) -> SignalInputs:
    """Return the rows of several forward passes together."""
    predictions = [part.predictions for part in parts]
    probabilities = [part.probabilities for part in predictions if part.probabilities is not None]
    return SignalInputs(
        Predictions(
            np.concatenate([part.scores for part in predictions]),
            np.concatenate(probabilities) if probabilities else None,
        ),
        PixelRows(np.concatenate([part.pixel_rows.pixels for part in parts]), parts[0].pixel_rows.step),
        [size for part in parts for size in part.sizes],
        [explanation for part in parts for explanation in part.compared],
    )


@dataclass(frozen=True)
class MeasuredRows:
    """N rows of one forward pass, and their signals, which are computed at the first use."""

    requests: tuple[Request, ...]
    signal_inputs: SignalInputs
    flags: Sequence[Sequence[str]] = ()  # of each row: blank, and those of the baseline

    @cached_property
    def values(self) -> np.ndarray:
        """The signals of every row, (N, S) float64, columns as in ``SIGNALS``; NaN where a row has none."""
        return self.signal_inputs.values()

    @property
    def classes(self) -> Column:
        """The predicted class of each row, (N,) int64."""
        return self.signal_inputs.predictions.classes


class RowSignals(NamedTuple):
    """One row of ``measured``."""

    measured: MeasuredRows
    number: int

    @property
    def flags(self) -> Sequence[str]:
        """What is unusual in this row."""
        return self.measured.flags[self.number]

    def value(self, name: str) -> float:
        """Return one signal alone; NaN: the row has none."""
        return float(self.measured.signal_inputs.column(name)[self.number])

    def values(self) -> dict[str, float]:
        """Return the signals that the row has."""
        return {
            name: float(value) for name, value in zip(NAMES, self.measured.values[self.number]) if np.isfinite(value)
        }


@dataclass(frozen=True)
class MapFilter:
    """Which maps are compared with the baseline: those of requests that leave method, layer and target as usual."""

    usual: Options  # of a request that asks for nothing
    layer: str

    def accepts(self, request: Request, explanation: Explanation, best: int) -> bool:
        """Whether this map is compared; ``best`` is the predicted class."""
        # Rows that a condition picked are another population than rows that a caller picked.
        alike = request.options.explain == (self.usual.explain or True)
        return (
            alike
            and request.options.head == self.usual.head
            and request.options.context == self.usual.context
            and explanation.status in ("ok", "blank")
            and explanation.method == self.usual.methods[0]
            and explanation.layer == self.layer
            and explanation.evidence in POSITIVE
            and explanation.contrast is None
            and request.options.channels is None
            and explanation.target.prediction.index == best
        )


@dataclass(frozen=True)
class PassObservation:
    """The inputs and the results of one forward pass of N rows."""

    requests: Sequence[Request]
    scores: np.ndarray  # (N, C) float32, before softmax
    probabilities: np.ndarray | None  # (N, C) float32; None: the scores are quantities
    classes: Sequence[int]  # the predicted one of each row
    pixel_rows: PixelRows
    explanations: Sequence[Sequence[Explanation]]  # of each row

    def only(self, rows: Sequence[int]) -> PassObservation:
        """Return the rows of these numbers."""
        if len(rows) == len(self.requests):
            return self
        return PassObservation(
            [self.requests[row] for row in rows],
            self.scores[rows],
            None if self.probabilities is None else self.probabilities[rows],
            [self.classes[row] for row in rows],
            PixelRows(self.pixel_rows.pixels[rows], self.pixel_rows.step),
            [self.explanations[row] for row in rows],
        )


def measure_pass(
    observation: PassObservation, map_filter: MapFilter, judge: Callable[[Predictions, int, int], list[str]]
) -> MeasuredRows:
    """Put aside what the signals of every row are computed from; ``judge`` flags a row with its best class.

    All scores must be finite.
    """
    predictions = Predictions(observation.scores, observation.probabilities)
    compared = [
        next((explanation for explanation in explanations if map_filter.accepts(request, explanation, best)), None)
        for request, explanations, best in zip(observation.requests, observation.explanations, observation.classes)
    ]
    sizes = [(request.picture.width, request.picture.height) for request in observation.requests]
    signal_inputs = SignalInputs(predictions, observation.pixel_rows, sizes, compared)
    flags = [judge(predictions, row, best) for row, best in enumerate(observation.classes)]
    for row_flags, blank in zip(flags, signal_inputs.blank):
        if blank:
            row_flags.append("blank")
    return MeasuredRows(tuple(observation.requests), signal_inputs, flags)


def sample_pixels(requests: Sequence[Request]) -> PixelRows:
    """Return a part of the pixels that the network is about to see."""
    step = max(1, min(requests[0].pixels.shape[:2]) // GRID_SIDE)
    shown = [request.pixels if request.preview is None else request.preview for request in requests]
    return PixelRows(np.stack([_as_colors(pixels[step // 2 :: step]) for pixels in shown]), step)


def _as_colors(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels (h, W, C) of a network with other channels as red, green and blue, (h, W, 3) uint8."""
    if pixels.dtype != np.uint8:
        pixels = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels[..., :3]
