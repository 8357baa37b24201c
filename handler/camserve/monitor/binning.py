"""Which bin of which signal a value falls into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camserve.monitor.baseline import Baseline
from camserve.monitor.series import Key
from camserve.monitor.signals import CLASS, NAMES, SIGNALS


class Binning:
    """Which bin of which signal a value falls into, for all signals at once."""

    def __init__(self, baseline: Baseline | None, names: Sequence[str] = NAMES) -> None:
        """Take the edges of the signals ``names`` from the baseline; without one, cut bounded ones into equal parts."""
        self.edges = {name: edges for name in names if (edges := _edges(name, baseline)) is not None}
        self._columns = [NAMES.index(name) for name in self.edges]
        widest = max(map(len, self.edges.values()), default=0)
        self._table = np.full((len(self.edges), widest), np.inf)
        for row, edges in enumerate(self.edges.values()):
            self._table[row, : len(edges)] = edges
        sizes = [len(edges) + 1 for edges in self.edges.values()]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._top = np.array(baseline.classes.top if baseline else (), np.int64)

    @property
    def keys(self) -> list[Key]:
        """The series of the bins, in the order of ``count``."""
        labels = [(name, f"b{number}") for name, edges in self.edges.items() for number in range(len(edges) + 1)]
        labels += [(CLASS, label) for label in class_labels(self._top.tolist())]
        return [("cam_bin_total", label) for label in labels]

    def count(self, signals: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return how many rows of signals (N, S) and classes (N,) fall into each bin, int64."""
        values = signals[:, self._columns]
        place = (values[:, :, None] >= self._table).sum(axis=2) + self._offsets[:-1]
        counts = np.bincount(place[np.isfinite(values)], minlength=self._offsets[-1])
        return np.concatenate([counts, self._count_classes(classes)])

    def _count_classes(self, classes: np.ndarray) -> np.ndarray:
        if not len(self._top):
            return np.zeros(0, np.int64)
        same = classes[:, None] == self._top
        return np.append(same.sum(axis=0), (~same.any(axis=1)).sum())


def _edges(name: str, baseline: Baseline | None) -> tuple[float, ...] | None:
    if baseline is not None:
        return baseline.signals[name].edges if name in baseline.signals else None
    bounds = SIGNALS[name].bounds
    return None if bounds is None else tuple(np.linspace(*bounds, SIGNALS[name].bins + 1)[1:-1].tolist())


def class_labels(top: Sequence[int]) -> list[str]:
    """Return the bins of the predicted class: by index, since a server's parser trips over names."""
    return [*(f"c{index:04d}" for index in top), "other"] if top else []
