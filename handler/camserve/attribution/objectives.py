"""What a map is the evidence of: weighted sums of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Terms = tuple[tuple[int, float], ...]  # class indices, each with the weight of its score


@dataclass(frozen=True)
class Objectives:
    """T weighted sums of scores: objective t is ``sum(weight * scores[rows[t], index])`` over ``terms[t]``.

    One class explains itself; two with opposite weights explain why one rather than the other; negated weights explain
    what speaks against a class. Equal objectives share their gradients.
    """

    rows: tuple[int, ...]  # T: which row of the batch; on the host, so that nobody waits for a GPU
    terms: tuple[Terms, ...]  # T
    class_count: int  # C
    device: torch.device

    @classmethod
    def weighing(cls, rows: Sequence[int], weights: Tensor) -> Objectives:
        """Return the objectives that weigh all scores of their rows by ``weights`` (T, C)."""
        terms = tuple(tuple(enumerate(row)) for row in weights.tolist())
        return cls(tuple(rows), terms, weights.shape[1], weights.device)

    @classmethod
    def of_top_classes(cls, scores: Tensor, count: int = 1) -> Objectives:
        """Return the ``count`` best classes of each row of ``scores`` (N, C), one objective each."""
        best = scores.topk(count, dim=1).indices.flatten().tolist()
        rows = (row for row in range(len(scores)) for _ in range(count))
        return cls(tuple(rows), tuple(((index, 1.0),) for index in best), scores.shape[1], scores.device)

    def alone(self, part: slice) -> Objectives:
        """Return a part of the objectives, each about a row of its own: 0, 1, ..."""
        terms = self.terms[part]
        return Objectives(tuple(range(len(terms))), terms, self.class_count, self.device)

    @cached_property
    def row_index(self) -> Tensor:
        """Which row of the batch, (T,) int64."""
        return torch.tensor(self.rows, device=self.device)

    @cached_property
    def classes(self) -> Tensor:
        """The class of each term, (T, M) int64; shorter sums end in terms of weight 0."""
        return torch.tensor([[index for index, _ in terms] for terms in self._padded], device=self.device)

    @cached_property
    def signs(self) -> Tensor:
        """The weight of each term, (T, M) float32."""
        weights = [[weight for _, weight in terms] for terms in self._padded]
        return torch.tensor(weights, dtype=torch.float32, device=self.device)

    @cached_property
    def _padded(self) -> list[Sequence[tuple[int, float]]]:
        most = max(map(len, self.terms), default=0)
        return [(*terms, *[(0, 0.0)] * (most - len(terms))) for terms in self.terms]

    @cached_property
    def weights(self) -> Tensor:
        """The weight of every score, (T, C) float32."""
        return self.signs.new_zeros(len(self.rows), self.class_count).scatter_add_(1, self.classes, self.signs)

    def per_row(self, count: int) -> int:
        """Return how many objectives each of ``count`` rows has where these are equally many and in order, else 0."""
        share, rest = divmod(len(self.rows), count)
        in_order = not rest and list(self.rows) == [row for row in range(count) for _ in range(share)]
        return share if in_order else 0

    @cached_property
    def order(self) -> list[int]:
        """How many objectives of the same row stand before each, T."""
        counts: dict[int, int] = {}
        order = []
        for row in self.rows:
            order.append(counts.get(row, 0))
            counts[row] = order[-1] + 1
        return order

    def turns(self) -> list[list[int]]:
        """Return the numbers of the objectives, in groups that hold one of a row at most."""
        return [
            [number for number, place in enumerate(self.order) if place == turn]
            for turn in range(max(self.order, default=-1) + 1)
        ]

    def values(self, scores: Tensor) -> Tensor:
        """Return the value (T,) of each objective for scores (N, C)."""
        return (self.signs * scores[self.row_index].gather(1, self.classes)).sum(dim=1)

    def spread(self, values: Tensor) -> Tensor:
        """Return the values (T, ...), of (N, ...), of each objective's row; no copy where each row has one."""
        return values if self.per_row(len(values)) == 1 else values[self.row_index]

    def combine(self, rows: Tensor) -> Tensor:
        """Return the weighted sum (T, K) of the rows (C, K) of each objective's classes."""
        if self.classes.shape[1] == self.class_count:
            return self.weights @ rows
        return (self.signs[:, :, None] * rows[self.classes]).sum(dim=1)
