"""What labels that came later say of audit records, and the records as rows of a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camserve.drift.audit_log import read_audit, sample_of
from camserve.drift.version import Version
from camserve.errors import ConfigError
from camserve.monitor.audit_record import AuditRecord

CONFIDENCE_BINS = 10


@dataclass(frozen=True)
class Slice:
    """Predictions of one range of confidence."""

    low: float
    high: float
    count: int
    confidence: float  # mean
    accuracy: float


@dataclass(frozen=True)
class SampleAccuracy:
    """What labels say of the sampled requests."""

    labelled: int
    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson 1927
    calibration_error: float  # expected; Naeini et al. 2015, in equal steps of confidence
    slices: tuple[Slice, ...]
    classes: Mapping[int, tuple[int, int]]  # true class index -> requests, right ones


def read_records(folder: Path) -> list[AuditRecord]:
    """Return the records of an audit log's folder, or of a run's, oldest first. ConfigError: it holds none."""
    return read_audit([folder])


def records_of(records: Sequence[AuditRecord], version: Version) -> list[AuditRecord]:
    """Return the records of one version. ConfigError: none of them is sampled."""
    found = [record for record in records if Version(record.model, record.version) == version]
    if not sample_of(found):
        raise ConfigError(f"the audit files hold no sampled records of {version}")
    return found


def read_truth(path: Path) -> dict[str, int]:
    """Read a CSV of request_id and class_index. ConfigError: a column is missing, or an index is no number."""
    try:
        with path.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if not rows or not {"request_id", "class_index"} <= rows[0].keys():
        raise ConfigError(f"{path} must have the columns request_id and class_index")
    try:
        return {row["request_id"]: int(row["class_index"]) for row in rows}
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def score(records: Sequence[AuditRecord], truth: Mapping[str, int]) -> SampleAccuracy:
    """Hold predictions against labels. ConfigError: no sampled record has one.

    Only the sample counts: records kept because they were telling would make the model look worse than it is.
    """
    pairs = [
        (record.best, truth[record.request_id])
        for record in sample_of(records)
        if record.best and record.request_id in truth
    ]
    if not pairs:
        raise ConfigError("no sampled record has a label: request ids do not match")
    if "probability" not in pairs[0][0]:
        raise ConfigError("the records hold values of task regression: there are no classes to hold against labels")
    confidence = np.array([best["probability"] for best, _ in pairs])
    right = np.array([best["index"] == true for best, true in pairs])
    classes: dict[int, tuple[int, int]] = {}
    for (_, true), good in zip(pairs, right.tolist()):
        count, correct = classes.get(true, (0, 0))
        classes[true] = (count + 1, correct + good)
    slices = _slices(confidence, right)
    error = sum(part.count * abs(part.confidence - part.accuracy) for part in slices) / len(pairs)
    return SampleAccuracy(len(pairs), float(right.mean()), wilson(int(right.sum()), len(pairs)), error, slices, classes)


def _slices(confidence: np.ndarray, right: np.ndarray) -> tuple[Slice, ...]:
    place = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    return tuple(
        Slice(
            number / CONFIDENCE_BINS,
            (number + 1) / CONFIDENCE_BINS,
            int((place == number).sum()),
            float(confidence[place == number].mean()),
            float(right[place == number].mean()),
        )
        for number in np.unique(place).tolist()
    )


def wilson(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927)."""
    share, spread = successes / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / count + spread / (4 * count)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def flatten_record(record: AuditRecord) -> dict[str, Any]:
    """Return one flat row of a table: nested blocks become dotted columns, lists become JSON."""
    best = record.predictions[0] if record.predictions else {}
    return {**_flat(record.to_json()), **{f"best.{name}": value for name, value in best.items()}}


def _flat(block: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in block.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": part for inner, part in _flat(value).items()})
        else:
            flat[name] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return flat


def write_parquet(records: Sequence[AuditRecord], truth: Mapping[str, int], path: Path) -> tuple[int, int]:
    """Write records as a Parquet table, with a column ``truth`` where there is any; return its rows and columns."""
    import pyarrow
    from pyarrow import parquet

    rows = [flatten_record(record) for record in records]
    columns = sorted({name for row in rows for name in row})
    table = {name: [row.get(name) for row in rows] for name in columns}
    if truth:
        table["truth"] = [truth.get(row["request_id"]) for row in rows]
    parquet.write_table(pyarrow.table(table), path)
    return len(rows), len(table)
