"""From one forward pass to the signals of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from camserve.monitor.signals import SIGNALS, Inputs, Maps, Predictions
from camserve.settings import InputSpec
from camserve.values import Explanation, Options, Request

THUMBNAIL = 56  # pixels a side, or little more
WATCHED_EVIDENCE = ("for", "signed")  # both show the positive part
NAMES = tuple(SIGNALS)
COLUMNS = {
    family: [column for column, each in enumerate(SIGNALS.values()) if each.family == family]
    for family in ("predictions", "explanations", "inputs")
}


@dataclass(frozen=True)
class Measured:
    """The signals of N rows of one forward pass."""

    requests: tuple[Request, ...]  # whose rows they are
    values: np.ndarray  # (N, S) float64, columns as in ``SIGNALS``; NaN where a row has none
    classes: np.ndarray  # (N,) int64, the predicted ones
    blank: np.ndarray  # (N,) bool: the watched map holds no evidence
    maps: Maps | None  # of the rows that have one
    flags: Mapping[str, np.ndarray] = field(default_factory=dict)  # what the baseline says of them: (N,) bool

    def column(self, name: str) -> np.ndarray:
        """Return one signal of every row, (N,)."""
        return np.asarray(self.values[:, NAMES.index(name)])

    def row(self, number: int) -> dict[str, float]:
        """Return the signals that one row has."""
        return {name: float(each) for name, each in zip(NAMES, self.values[number]) if np.isfinite(each)}


@dataclass(frozen=True)
class Watch:
    """Which maps are compared with the reference: those that a request gets that asks for nothing special."""

    usual: Options
    layer: str
    input: InputSpec

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
    pixels: Tensor  # (N, 3, H, W) as the network saw them
    explanations: Sequence[Sequence[Explanation]]  # of each row


def measure(shown: Shown, watch: Watch) -> Measured:
    """Compute every signal of every row whose scores are finite."""
    kept = np.flatnonzero(np.isfinite(shown.scores).all(axis=1)).tolist()
    requests = tuple(shown.requests[row] for row in kept)
    values = np.full((len(kept), len(SIGNALS)), np.nan)
    predictions = Predictions(shown.scores[kept], shown.probabilities[kept])
    sizes = np.array([(each.picture.width, each.picture.height) for each in requests], float).reshape(-1, 2)
    pixels = shown.pixels if len(kept) == len(shown.pixels) else shown.pixels[kept]
    inputs = Inputs(thumbnails(pixels, watch.input), sizes)
    watched = [
        _watched(watch, request, shown.explanations[row], best)
        for row, request, best in zip(kept, requests, predictions.classes.tolist())
    ]
    blank = np.array([each is not None and each.status == "blank" for each in watched], bool)
    mapped = [row for row, each in enumerate(watched) if each is not None and not blank[row]]
    maps = _maps([each for each in watched if each is not None and each.status == "ok"])
    if len(kept):
        _fill(values, slice(None), "predictions", predictions)
        _fill(values, slice(None), "inputs", inputs)
    if maps is not None:
        _fill(values, mapped, "explanations", maps)
    return Measured(requests, values, predictions.classes, blank, maps)


def _fill(values: np.ndarray, rows: slice | list[int], family: str, view: object) -> None:
    for column in COLUMNS[family]:
        values[rows, column] = SIGNALS[NAMES[column]].measure(view)


def _watched(watch: Watch, request: Request, explanations: Sequence[Explanation], best: int) -> Explanation | None:
    return next((each for each in explanations if watch.watches(request, each, best)), None)


def _maps(explanations: Sequence[Explanation]) -> Maps | None:
    raw = [np.maximum(each.grid, 0) * each.scale for each in explanations if each.grid is not None]
    shares = [each.balance.get("negative") or 0.0 for each in explanations]
    return Maps(np.stack(raw), np.array(shares)) if raw else None


def thumbnails(pixels: Tensor, spec: InputSpec) -> np.ndarray:
    """Return (N, 3, h, w) float32 in 0..1: a grid of the pixels that the network saw, with its normalisation undone."""
    step = max(1, min(pixels.shape[2:]) // THUMBNAIL)
    few = pixels[:, :, step // 2 :: step, step // 2 :: step].float().cpu().numpy()
    # A copy in the order of the planes: the pixels may lie channels last, where all that follows is slow.
    colours = np.array(few, np.float32, order="C")
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std)):
        colours[:, channel] *= std
        colours[:, channel] += mean
    np.maximum(colours, 0, out=colours)  # black may come back as a little less
    return colours


def flagged(measured: Measured, flags: Mapping[str, np.ndarray]) -> Measured:
    """Return the same rows with what the baseline says of them."""
    return replace(measured, flags={**flags, "blank": measured.blank})
