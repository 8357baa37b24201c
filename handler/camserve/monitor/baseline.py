"""What is normal: the distribution of every signal over reference photos, kept in the archive."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from camserve.errors import ConfigError
from camserve.files import sha256
from camserve.monitor.measure import MapFilter
from camserve.monitor.signals import CLASS, NAMES, OF_QUANTITIES, SIGNALS
from camserve.monitor.views import Predictions
from camserve.settings import Settings
from camserve.strict import read

BASELINE = "baseline.json"
SCHEMA = 1


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
    """The accuracy, and the confidence that a share of just this size exceeds.

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
    unusual: Optional[Unusual]  # noqa: UP045 (read at run time, where Python 3.9 does not know X | Y); null: regression
    shares: dict[str, Any]  # of the reference: ood, low_confidence, atc, blank
    provenance: Provenance
    accuracy: Optional[Accuracy] = None  # noqa: UP045
    heatmap: tuple[tuple[float, ...], ...] = ()  # the mean of the maps, each divided by its sum
    schema: int = SCHEMA

    @property
    def signals_off(self) -> list[str]:
        """The signals of such a model that are not compared, because the reference holds too little of them."""
        names = OF_QUANTITIES if self.unusual is None else (*NAMES, CLASS)
        compared = {*self.signals, *([CLASS] if self.classes.top else [])}
        return [name for name in names if name not in compared]

    def flags(self, predictions: Predictions, row: int, best: int, low_confidence: float | None) -> list[str]:
        """Return what one row, whose largest score is that of ``best``, is: ood, low_confidence, atc.

        The last: its confidence is above the ATC threshold. Quantities are none of these.
        """
        if predictions.probabilities is None or self.unusual is None:
            return []
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
        limit = self.low_confidence_limit(low_confidence)
        if limit is not None and confidence < limit:
            flags.append("low_confidence")
        return flags

    def possible_flags(self, low_confidence: float | None) -> list[str]:
        """Return which of the flags any row may have."""
        possible = {
            "ood": self.unusual is not None,
            "atc": self.accuracy is not None,
            "low_confidence": self.low_confidence_limit(low_confidence) is not None,
        }
        return [name for name, is_possible in possible.items() if is_possible]

    def low_confidence_limit(self, low_confidence: float | None) -> float | None:
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
    signals = {name: _bins(signal, name) for name, signal in block.get("signals", {}).items()}
    return dataclasses.replace(read(Baseline, block, BASELINE), signals=signals)


def load_baseline(path: Path, settings: Settings, map_filter: MapFilter) -> Baseline:
    """Read an archive's baseline. ConfigError: it is damaged, or belongs to other weights, another layer or method."""
    if sha256(path) != settings.monitoring.baseline_sha256:
        raise ConfigError(f"{path.name} is not the file whose SHA-256 monitoring.baseline_sha256 says")
    baseline = read_baseline(path.read_bytes())
    made = baseline.provenance
    now = {"weights": settings.model.sha256, "layer": map_filter.layer, "method": map_filter.usual.methods[0]}
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
