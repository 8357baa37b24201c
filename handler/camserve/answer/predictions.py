"""Predictions and target classes of one row, from its scores."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from camserve.output_spec import Head
from camserve.values import Condition, Options, Prediction, Target, TargetRequest

MOST_PREDICTED = 5  # classes or quantities of one row that "predicted" can mean
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class RowScores:
    """The scores of one row under one head."""

    scores: np.ndarray  # (C,) float32, before softmax
    probabilities: np.ndarray | None  # (C,) float32; None: of quantities
    order: np.ndarray  # (C,) class indices, most probable first; quantities stand in their own order
    head: Head

    @cached_property
    def finite(self) -> bool:
        """Whether every score is a number."""
        return bool(np.isfinite(self.scores).all())

    @cached_property
    def best(self) -> int:
        """The most probable class, or the first quantity."""
        return int(self.order[0])

    def prediction(self, index: int) -> Prediction:
        """Return the prediction of one class."""
        probability = None if self.probabilities is None else float(self.probabilities[index])
        label, unit = self.head.labels[index], self.head.unit(index)
        return Prediction(index, label, probability, float(self.scores[index]), unit)

    def top(self, count: int) -> tuple[Prediction, ...]:
        """Return the ``count`` most probable classes."""
        return tuple(self.prediction(int(index)) for index in self.order[:count])

    @cached_property
    def gap(self) -> float:
        """How far the best score lies above the mean of all others; 0: there are none."""
        count = len(self.scores)
        best = float(self.scores[self.best])
        return 0.0 if count < 2 else best - (float(self.scores.sum(dtype=np.float64)) - best) / (count - 1)

    def rise(self, index: int, usual_gap: float) -> float:
        """Return how near a class's score comes to the best, 0..1; 0: by ``usual_gap`` below, or as all others are."""
        below = float(self.scores[self.best] - self.scores[index])
        return max(0.0, 1 - below / (max(self.gap, usual_gap) or math.inf))

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
        """Return the best class, every class above the threshold where several can be true, or all quantities."""
        if self.probabilities is None:
            return [int(index) for index in self.order[:MOST_PREDICTED]]
        if self.head.spec.task != "multilabel":
            return [self.best]
        threshold = self.head.spec.threshold
        above = [int(index) for index in self.order[:MOST_PREDICTED] if self.probabilities[index] > threshold]
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
        if condition.quantity == "label":
            return (self.best == condition.limit) == (condition.operator == "=")
        return COMPARE[condition.operator](self._quantity(condition.quantity), condition.limit)

    def _quantity(self, name: str) -> float:
        assert self.probabilities is not None  # a condition on quantities is refused
        first, second = (float(self.probabilities[index]) for index in np.resize(self.order[:2], 2))
        return first if name == "probability" else first - second


@dataclass(frozen=True)
class HeadScores:
    """The scores of N rows under one head."""

    head: Head
    scores: np.ndarray  # (N, C) float32, before softmax
    probabilities: np.ndarray | None  # (N, C) float32; None: of quantities

    @cached_property
    def order(self) -> np.ndarray:
        """The classes of each row, most probable first, (N, C) int64; quantities stand in their own order."""
        if self.probabilities is None:
            return np.broadcast_to(np.arange(self.scores.shape[1]), self.scores.shape)
        return np.argsort(-self.scores, axis=1, kind="stable")

    @cached_property
    def finite(self) -> np.ndarray:
        """Whether every score of a row is a number, (N,) bool."""
        return np.asarray(np.isfinite(self.scores).all(axis=1))

    def row(self, number: int) -> RowScores:
        """Return one row."""
        probabilities = None if self.probabilities is None else self.probabilities[number]
        return RowScores(self.scores[number], probabilities, self.order[number], self.head)


def read_scores(scores: Tensor, heads: Sequence[Head]) -> list[HeadScores]:
    """Return what each head says of N rows, from the scores of all heads side by side, with one copy to the host."""
    probabilities = torch.cat([_probabilities(scores[:, head.columns], head) for head in heads], dim=1)
    both = torch.stack([scores, probabilities]).cpu().numpy()
    return [
        HeadScores(head, both[0][:, head.columns], None if head.spec.is_quantity else both[1][:, head.columns])
        for head in heads
    ]


def _probabilities(scores: Tensor, head: Head) -> Tensor:
    if head.spec.is_quantity:
        return scores  # nobody reads them
    return scores.softmax(dim=1) if head.spec.exclusive else scores.sigmoid()
