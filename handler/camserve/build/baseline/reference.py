"""What a baseline is made of: the signals, classes and maps of many photos, however they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camserve.monitor.baseline import Baseline
from camserve.monitor.measure import MeasuredRows
from camserve.monitor.signals import NAMES


@dataclass(frozen=True)
class Reference:
    """N photos that were measured."""

    ids: Sequence[str]  # of the requests
    values: np.ndarray  # (N, S) float64, columns as in ``SIGNALS``; NaN where a photo has none
    classes: np.ndarray  # (N,) int64, the predicted ones
    blank: np.ndarray  # (N,) bool: the compared map holds no evidence
    mean_map: np.ndarray | None  # (h, w), of the compared maps, each divided by its sum

    def column(self, name: str) -> np.ndarray:
        """Return a signal of every photo, (N,)."""
        values: np.ndarray = self.values[:, NAMES.index(name)]
        return values

    def flag_shares(self, baseline: Baseline, low_confidence: float | None) -> dict[str, float]:
        """Return how many of the photos have each flag of ``baseline``, as shares."""
        confidence, energy = self.column("confidence"), self.column("energy")
        found: dict[str, np.ndarray] = {}
        if baseline.unusual is not None:
            found["ood"] = (confidence < baseline.unusual.confidence) | (energy < baseline.unusual.energy)
        if baseline.accuracy is not None:
            found["atc"] = confidence >= baseline.accuracy.threshold
        if (limit := baseline.low_confidence_limit(low_confidence)) is not None:
            found["low_confidence"] = confidence < limit
        return {name: float(found[name].mean()) for name in baseline.possible_flags(low_confidence)}


def reference_of(batches: Sequence[MeasuredRows]) -> Reference:
    """Return the photos of measured batches together."""
    if not batches:
        return Reference((), np.zeros((0, len(NAMES))), np.zeros(0, np.int64), np.zeros(0, bool), None)
    maps = [batch.signal_inputs.maps for batch in batches if batch.signal_inputs.maps is not None]
    shares = np.concatenate([grids.shares for grids in maps]).mean(axis=0) if maps else None
    return Reference(
        [request.request_id for batch in batches for request in batch.requests],
        np.concatenate([batch.values for batch in batches]),
        np.concatenate([batch.classes for batch in batches]),
        np.concatenate([batch.signal_inputs.blank for batch in batches]).astype(bool),
        None if shares is None else shares.reshape(maps[0].raw.shape[1:]),
    )
