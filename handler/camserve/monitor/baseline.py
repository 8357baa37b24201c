"""What is normal: the distribution of every signal over reference photos, kept in the archive."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from camserve.errors import ConfigError, RequestError
from camserve.files import sha256
from camserve.monitor.measure import NAMES, MeasuredRows, Watch
from camserve.monitor.recorder import Finished
from camserve.monitor.signals import SIGNALS, Predictions
from camserve.settings import Settings
from camserve.strict import read

BASELINE = "baseline.json"
SCHEMA = 1
LEAST_IMAGES = 500
ADVISED_IMAGES = 2000
LEAST_VALUES = 100  # of one signal: maps are fewer than pictures where some are blank or not asked for
FEWEST_OF_A_CLASS = 5  # the usual least count of a chi-square bin
TOP_CLASSES = 14  # with one bin of their own; all others share one
UNUSUAL = 0.01  # share of the reference below the thresholds of "out of distribution"


@dataclass(frozen=True)
class Bins:
    """One signal over the reference."""

    edges: tuple[float, ...]  # K - 1 inner edges; bin k holds edges[k - 1] <= value < edges[k]
    counts: tuple[int, ...]  # K
    means: tuple[float, ...]  # K, of the values within each bin
    mean: float
    sd: float


@dataclass(frozen=True)
class ClassBins:
    """The predicted classes over the reference."""

    top: tuple[int, ...]  # class indices, most frequent first
    counts: tuple[int, ...]  # of these, and of all others


@dataclass(frozen=True)
class Accuracy:
    """What labels tell: accuracy, and the confidence that a share of just this size exceeds.

    Average Thresholded Confidence, Garg et al. 2022, arXiv:2201.04234: later, the share of requests
    above the threshold estimates the accuracy without labels.
    """

    accuracy: float
    threshold: float  # of the confidence


@dataclass(frozen=True)
class Unusual:
    """Below these, a row is out of distribution."""

    energy: float
    confidence: float


@dataclass(frozen=True)
class Provenance:
    """What the baseline was made of, and with."""

    weights: str  # SHA-256
    layer: str
    method: str
    camserve: str
    torch: str
    date: str
    images: int


@dataclass(frozen=True)
class Baseline:
    """The reference that live traffic is compared with."""

    signals: dict[str, Any]  # name -> Bins
    classes: ClassBins
    unusual: Unusual
    shares: dict[str, Any]  # of the reference: ood, low_confidence, atc, blank
    provenance: Provenance
    accuracy: Optional[Accuracy] = None  # noqa: UP045 (read at run time, where Python 3.9 does not know X | Y)
    heatmap: tuple[tuple[float, ...], ...] = ()  # the mean of the maps, each divided by its sum
    schema: int = SCHEMA

    def flags(self, predictions: Predictions, row: int, best: int, low_confidence: float | None) -> list[str]:
        """Return what one row, whose largest score is that of ``best``, is: ood, low_confidence, atc.

        The last: its confidence is above the ATC threshold.
        """
        # A client waits, and NumPy takes longer for a few numbers than Python.
        confidence, largest = float(predictions.probabilities[row, best]), float(predictions.scores[row, best])
        unusual, accuracy = self.unusual, self.accuracy
        flags = []
        # Logsumexp is no lower than the largest score, which is known sooner.
        if confidence < unusual.confidence or (
            largest < unusual.energy and predictions.energy_of(row) < unusual.energy
        ):
            flags.append("ood")
        if accuracy is not None and confidence >= accuracy.threshold:
            flags.append("atc")
        limit = self._limit(low_confidence)
        if limit is not None and confidence < limit:
            flags.append("low_confidence")
        return flags

    def possible_flags(self, low_confidence: float | None) -> list[str]:
        """Return which of the flags any row may have."""
        possible = {
            "ood": True,
            "atc": self.accuracy is not None,
            "low_confidence": self._limit(low_confidence) is not None,
        }
        return [name for name, each in possible.items() if each]

    def _limit(self, low_confidence: float | None) -> float | None:
        """Return below which confidence an answer is doubtful: what is wished, or else the ATC threshold."""
        return low_confidence if low_confidence is not None or self.accuracy is None else self.accuracy.threshold

    def write(self) -> bytes:
        """Return the file ``baseline.json``; the same baseline gives the same bytes."""
        return (json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False) + "\n").encode()


def read_baseline(content: bytes) -> Baseline:
    """Read ``baseline.json``. ConfigError: it is of another schema, incomplete or inconsistent."""
    try:
        block = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"{BASELINE} is not JSON: {error}") from None
    if not isinstance(block, Mapping) or block.get("schema") != SCHEMA:
        raise ConfigError(f"{BASELINE} is not of schema {SCHEMA}; make it again: camserve baseline")
    if unknown := set(block.get("signals", ())) - set(SIGNALS):
        raise ConfigError(f"{BASELINE}: there is no signal {sorted(unknown)[0]!r}")
    signals = {name: _bins(each, name) for name, each in block.get("signals", {}).items()}
    return dataclasses.replace(read(Baseline, block, BASELINE), signals=signals)


def load_baseline(path: Path, settings: Settings, watch: Watch) -> Baseline:
    """Read an archive's baseline. ConfigError: it is damaged, or belongs to other weights, another layer or method."""
    if sha256(path) != settings.monitoring.baseline_sha256:
        raise ConfigError(f"{path.name} is not the file whose SHA-256 monitoring.baseline_sha256 says")
    baseline = read_baseline(path.read_bytes())
    made = baseline.provenance
    now = {"weights": settings.model.sha256, "layer": watch.layer, "method": watch.usual.methods[0]}
    for name, value in now.items():
        if getattr(made, name) != value:
            raise ConfigError(
                f"{path.name} was made with {name} {getattr(made, name)[:40]}, not {value[:40]}; make it again: "
                "camserve baseline"
            )
    return baseline


def _bins(block: object, name: str) -> Bins:
    bins = read(Bins, block, f"{BASELINE}: {name}")
    if not len(bins.edges) + 1 == len(bins.counts) == len(bins.means):
        raise ConfigError(f"{BASELINE}: {name} has {len(bins.edges)} edges for {len(bins.counts)} counts")
    return bins


@dataclass
class Collector:
    """Remembers every signal of every row, for a reference small enough to keep."""

    seen: list[MeasuredRows] = field(default_factory=list)
    failures: int = 0

    def record(self, finished: Finished) -> None:
        """Keep the rows of one batch."""
        self.seen.extend(finished.measured)

    def refused(self, error: RequestError) -> None:
        """Nothing: a row that is refused has no signals."""

    def failed(self) -> None:
        """Remember that the reference has a hole."""
        self.failures += 1


def make_baseline(
    seen: Sequence[MeasuredRows], right: Mapping[str, bool], provenance: Provenance, low_confidence: float | None
) -> Baseline:
    """Summarise the reference; ``right`` says of request ids whether their labels agree with the prediction.

    ConfigError: there are fewer than 500 pictures.
    """
    values = np.concatenate([each.values for each in seen]) if seen else np.zeros((0, len(SIGNALS)))
    if len(values) < LEAST_IMAGES:
        raise ConfigError(f"a baseline needs {LEAST_IMAGES} pictures or more; {len(values)} could be read")
    columns = {name: column[np.isfinite(column)] for name, column in zip(NAMES, values.T)}
    classes = np.concatenate([each.classes for each in seen])
    blank = float(np.concatenate([each.material.blank for each in seen]).mean())
    known = [name for name, column in columns.items() if len(column) >= LEAST_VALUES]
    baseline = Baseline(
        signals={name: quantile_bins(columns[name], SIGNALS[name].bins) for name in known},
        classes=_class_bins(classes),
        unusual=Unusual(
            *(float(np.quantile(columns[name], UNUSUAL, method="lower")) for name in ("energy", "confidence"))
        ),
        shares={"blank": blank},
        provenance=provenance,
        accuracy=_accuracy(seen, right),
        heatmap=_mean_map(seen),
    )
    flags = [
        baseline.flags(each.material.predictions, row, best, low_confidence)
        for each in seen
        for row, best in enumerate(each.classes.tolist())
    ]
    shares = {
        name: sum(name in each for each in flags) / len(flags) for name in baseline.possible_flags(low_confidence)
    }
    return dataclasses.replace(baseline, shares={**baseline.shares, **shares})


def quantile_bins(values: np.ndarray, bins: int) -> Bins:
    """Cut (M,) values into ``bins`` of equal counts, or fewer where many values are the same.

    Edges lie halfway between two values: many pictures share one shape, and rounding must not send them elsewhere.
    """
    inner = np.quantile(values, np.arange(1, bins) / bins, method="higher")
    known = np.unique(values)
    above = np.searchsorted(known, np.unique(inner[inner > known[0]]))
    edges = (known[above - 1] + known[above]) / 2
    place = np.searchsorted(edges, values, side="right")
    counts = np.bincount(place, minlength=len(edges) + 1)
    means = np.bincount(place, values, minlength=len(edges) + 1) / np.maximum(counts, 1)
    return Bins(
        tuple(edges.tolist()), tuple(counts.tolist()), tuple(means.tolist()), float(values.mean()), float(values.std())
    )


def _class_bins(classes: np.ndarray) -> ClassBins:
    """Choose the frequent classes on one half of the pictures and count them on the other.

    Chosen and counted on the same pictures, those that are frequent by luck would seem to drift from then on.
    """
    chosen = np.bincount(classes[::2])
    counts = np.bincount(classes[1::2], minlength=len(chosen))
    top = np.argsort(-chosen, kind="stable")[:TOP_CLASSES]
    top = top[chosen[top] >= FEWEST_OF_A_CLASS]
    return ClassBins(tuple(top.tolist()), (*counts[top].tolist(), int(counts.sum() - counts[top].sum())))


def _accuracy(seen: Sequence[MeasuredRows], right: Mapping[str, bool]) -> Accuracy | None:
    pairs = [
        (confidence, right[request.request_id])
        for each in seen
        for request, confidence in zip(each.requests, each.material.predictions.confidence.tolist())
        if request.request_id in right
    ]
    if not pairs:
        return None
    wrong = sum(not correct for _, correct in pairs)
    ordered = sorted(confidence for confidence, _ in pairs)
    return Accuracy(1 - wrong / len(pairs), ordered[min(wrong, len(pairs) - 1)])


def _mean_map(seen: Sequence[MeasuredRows]) -> tuple[tuple[float, ...], ...]:
    maps = [each.material.maps for each in seen if each.material.maps is not None]
    if not maps:
        return ()
    shape, shares = maps[0].raw.shape[1:], [each.shares for each in maps]
    rows = np.concatenate(shares).mean(axis=0).reshape(shape)
    return tuple(tuple(float(f"{cell:.6g}") for cell in row) for row in rows)
