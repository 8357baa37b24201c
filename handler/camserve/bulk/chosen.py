"""Choosing rows of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from camserve.bulk.rows import Row


@dataclass(frozen=True)
class RowFilter:
    """Which rows: all that fit everything that is given."""

    path: str | None = None  # a pattern
    label: str | None = None  # of the best class
    warning: str | None = None  # the code of one of the warnings
    below: float | None = None  # of the best class, the probability is
    failed: bool = False  # those with an error alone
    limit: int | None = None

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows that fit, in order."""
        return itertools.islice((row for row in rows if self._fits(row)), self.limit)

    def _fits(self, row: Row) -> bool:
        if self.path is not None and not fnmatch(row.photo.path, self.path):
            return False
        if self.failed or row.answer is None:
            return row.answer is None and self.label is None and self.warning is None and self.below is None
        best = row.answer["predictions"][0]
        codes = {warning["code"] for warning in row.answer["warnings"]}
        return (
            self.label in (None, best["label"])
            and (self.warning is None or self.warning in codes)
            and (self.below is None or best.get("probability", 1.0) < self.below)
        )
