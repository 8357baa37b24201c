"""What a map is the evidence of: weighted sums of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Objectives:
    """The functionals whose evidence is asked for: target t is ``signs[t] . scores[numbers[t], classes[t]]``.

    One class is asked about for itself, two with opposite signs to learn why one rather than the other, negated signs
    to learn what speaks against.
    """

    numbers: Sequence[int]  # T, which row of the batch; on the host, where a GPU need not be waited for
    classes: Tensor  # (T, M) int64: M is 1 or 2 of the C classes, unless all are weighed
    signs: Tensor  # (T, M) float32
    class_count: int  # C

    @classmethod
    def weighing(cls, numbers: Sequence[int], weights: Tensor) -> Objectives:
        """Weigh all scores: target t is ``weights[t] . scores[numbers[t]]``, for weights (T, C) float32."""
        # 0, 1, ... C - 1 in each row, by a tensor's own means: those who need no torch must not load it with this file.
        every = weights.new_ones(weights.shape).long().cumsum(dim=1) - 1
        return cls(numbers, every, weights, weights.shape[1])

    @cached_property
    def rows(self) -> Tensor:
        """Which row of the batch, (T,) int64."""
        return self.classes.new_tensor(self.numbers)

    @cached_property
    def weights(self) -> Tensor:
        """The weight of every score, (T, C) float32."""
        return self.signs.new_zeros(len(self.numbers), self.class_count).scatter_add_(1, self.classes, self.signs)

    def per_row(self, count: int) -> int:
        """Return how many targets each of ``count`` rows has, where these are equally many and in order; else 0."""
        each, more = divmod(len(self.numbers), count)
        in_order = not more and list(self.numbers) == [row for row in range(count) for _ in range(each)]
        return each if in_order else 0
