"""Audit records, read back: lines of JSON, plain or as CloudEvents."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from camserve.drift.counts import Bins
from camserve.errors import ConfigError
from camserve.monitor.baseline import Baseline

SCHEMA = 1
SAMPLED = "sampled"  # the reason of records that were drawn blindly: only these stand for all traffic
CLASSES = "class"  # the feature whose bins are classes
CLASSES_TOLD = ("predictions", "another mix of subjects")  # its family and the likeliest cause


@dataclass(frozen=True)
class Record:
    """One audited request."""

    told: Mapping[str, Any]  # as it was written
    instant: float  # seconds since 1970
    request_id: str
    model: str
    version: str
    reason: str  # sampled, or why it was kept beside the sample
    outcome: str
    signals: Mapping[str, float] = field(default_factory=dict)
    flags: Sequence[str] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    predictions: Sequence[Mapping[str, Any]] = ()
    statuses: Sequence[str] = ()  # of its explanations
    thumbnail: bytes = b""  # JPEG
    grid: np.ndarray | None = None  # (h, w), 0..1
    format: str = ""  # of the picture as it was sent, where it was answered
    traits: Sequence[str] = ()  # and what else it was


def read_audit(paths: Iterable[Path]) -> list[Record]:
    """Read audit files, oldest record first. ConfigError names the file and the line that is none."""
    records = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                records.append(_record(json.loads(line)))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                if number == len(lines) and not text.endswith("\n"):
                    continue  # a worker was killed over it
                raise ConfigError(f"{path}, line {number}, is no audit record: {error}") from None
    if not records:
        raise ConfigError("the audit files hold no records")
    return sorted(records, key=lambda record: record.instant)


def _record(told: Mapping[str, Any]) -> Record:
    if "specversion" in told:
        told = told["data"]
    if told["schema"] != SCHEMA:
        raise ValueError(f"it is of schema {told['schema']}, not {SCHEMA}")
    return Record(
        told=told,
        instant=datetime.fromisoformat(told["time"]).timestamp(),
        request_id=told["request_id"],
        model=told["model"]["name"],
        version=told["model"]["version"],
        reason=told["reason"],
        outcome=told["outcome"],
        signals=told.get("signals", {}),
        flags=told.get("flags", ()),
        timing_ms=told.get("timing_ms", {}),
        predictions=told.get("predictions", ()),
        statuses=[each["status"] for each in told.get("explanations", ())],
        thumbnail=base64.b64decode(told.get("thumbnail", "")),
        grid=_grid(told.get("map")),
        format=told.get("input", {}).get("format", ""),
        traits=told.get("input", {}).get("traits", ()),
    )


def _grid(told: Mapping[str, Any] | None) -> np.ndarray | None:
    if told is None:
        return None
    levels = np.frombuffer(base64.b64decode(told["levels"]), np.uint8).reshape(told["shape"])
    return levels / max(1, int(levels.max()))


def sample_of(records: Sequence[Record]) -> list[Record]:
    """Return the records that stand for all traffic."""
    return [record for record in records if record.reason == SAMPLED]


def reference_bins(baseline: Baseline) -> Bins:
    """Return the baseline's counts by feature and bin, named as in the metrics."""
    found = {name: _named(each.counts) for name, each in baseline.signals.items()}
    return {**found, CLASSES: dict(zip(class_names(baseline), map(float, baseline.classes.counts)))}


def _named(counts: Iterable[int]) -> dict[str, float]:
    return {f"b{number}": float(count) for number, count in enumerate(counts)}


def class_names(baseline: Baseline) -> list[str]:
    """Return the names of the bins of classes."""
    return [f"c{index:04d}" for index in baseline.classes.top] + ["other"]


def bin_of(name: str, value: float, baseline: Baseline) -> int:
    """Return the bin that a signal's value falls into."""
    return int(np.searchsorted(baseline.signals[name].edges, value, side="right"))


def count_bins(records: Sequence[Record], baseline: Baseline) -> Bins:
    """Count records into the baseline's bins."""
    found: Bins = {}
    for name, bins in baseline.signals.items():
        values = [record.signals[name] for record in records if name in record.signals]
        place = np.searchsorted(bins.edges, values, side="right")
        found[name] = _named(np.bincount(place, minlength=len(bins.counts)).tolist())
    return {**found, CLASSES: _count_classes(records, baseline)}


def _count_classes(records: Sequence[Record], baseline: Baseline) -> dict[str, float]:
    seen = Counter(int(record.predictions[0]["index"]) for record in records if record.predictions)
    top = {index: float(seen.pop(index, 0)) for index in baseline.classes.top}
    return dict(zip(class_names(baseline), [*top.values(), float(sum(seen.values()))]))


def windows_of(records: Sequence[Record], seconds: float) -> dict[float, list[Record]]:
    """Group records by the window, by its start, that they fall into."""
    found: dict[float, list[Record]] = {}
    for record in records:
        found.setdefault(record.instant - record.instant % seconds, []).append(record)
    return found
