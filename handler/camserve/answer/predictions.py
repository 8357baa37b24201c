"""Predictions and target classes of one row, from its scores."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from camserve.labels import Labels
from camserve.values import Condition, Options, Prediction, Target, TargetRequest

MOST_PREDICTED = 5  # classes of one row that "predicted" can mean
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class RowScores:
    """The scores of one row."""

    scores: np.ndarray  # (C,) float32, before softmax
    probabilities: np.ndarray  # (C,) float32
    order: np.ndarray  # (C,) class indices, most probable first
    labels: Labels
    several: float | None = None  # the probability above which each class counts as predicted

    @cached_property
    def finite(self) -> bool:
        """Whether every score is a number."""
        return bool(np.isfinite(self.scores).all())

    @cached_property
    def best(self) -> int:
        """The most probable class."""
        return int(self.order[0])

    def prediction(self, index: int) -> Prediction:
        """Return the prediction of one class."""
        return Prediction(index, self.labels[index], float(self.probabilities[index]), float(self.scores[index]))

    def top(self, count: int) -> tuple[Prediction, ...]:
        """Return the ``count`` most probable classes."""
        return tuple(self.prediction(int(index)) for index in self.order[:count])

    def targets(self, options: Options) -> tuple[Target, ...]:
        """Return the classes that the options ask about, each once."""
        found: dict[int, Target] = {}
        for request in options.targets:
            for index in self._indices(request):
                found.setdefault(index, Target(self.prediction(index), request.asked))
        return tuple(found.values())

    def _indices(self, request: TargetRequest) -> list[int]:
        if request.kind == "class":
            return [request.number]
        if request.kind == "top":
            return [int(index) for index in self.order[: request.number]]
        return self._predicted()

    def _predicted(self) -> list[int]:
        """Return the best class, or every class above the threshold where several can be true at once."""
        if self.several is None:
            return [self.best]
        above = [int(index) for index in self.order[:MOST_PREDICTED] if self.probabilities[index] > self.several]
        return above or [self.best]

    def contrast(self, options: Options, target: Target) -> Prediction | None:
        """Return the class that the target is compared with: a named one, or the best of the others."""
        if options.contrast is None:
            return None
        if options.contrast.kind == "class":
            return self.prediction(options.contrast.number)
        return self.prediction(int(next(index for index in self.order if index != target.prediction.index)))

    def meets(self, condition: bool | Condition) -> bool:
        """Decide whether this row is to be explained."""
        if isinstance(condition, bool):
            return condition
        if isinstance(condition.limit, str):
            return (self.labels[self.best] == condition.limit) == (condition.operator == "=")
        return COMPARE[condition.operator](self._quantity(condition.quantity), condition.limit)

    def _quantity(self, name: str) -> float:
        first, second = (float(self.probabilities[index]) for index in np.resize(self.order[:2], 2))
        return first if name == "probability" else first - second


def read_scores(scores: Tensor, exclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, C) scores and their probabilities with one copy to the host.

    Where one class alone is true, ``exclusive``, they are a softmax, else a sigmoid of each score.
    """
    probabilities = scores.softmax(dim=1) if exclusive else scores.sigmoid()
    both = torch.stack([scores, probabilities]).cpu().numpy()
    return both[0], both[1]


def row_scores(scores: np.ndarray, probabilities: np.ndarray, labels: Labels, several: float | None) -> list[RowScores]:
    """Return one ``RowScores`` for each row of scores (N, C) and probabilities (N, C)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return [RowScores(*row, labels, several) for row in zip(scores, probabilities, order)]
