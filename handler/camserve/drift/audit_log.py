"""Audit records, read back and counted into the bins of a baseline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from camserve.drift.counts import Bins
from camserve.drift.run_records import ANSWERS, OF_A_SERVER, SHARDS, read_shard_records
from camserve.errors import ConfigError
from camserve.monitor.audit_files import PATTERN
from camserve.monitor.audit_record import SAMPLED, AuditRecord, read_record
from camserve.monitor.baseline import Baseline
from camserve.monitor.binning import class_labels
from camserve.monitor.signals import CLASS

CLASSES = CLASS  # the feature whose bins are classes
NO_CLASSES = "off: no class is frequent in the baseline"
CLASSES_CAUSE = ("predictions", "another mix of subjects")  # its family and the likeliest cause of its drift


def read_audit(paths: Iterable[Path]) -> list[AuditRecord]:
    """Read audit files, or what camserve explain kept, oldest record first; a folder stands for its files.

    ConfigError names the file and the line that is none.
    """
    records = [record for path in paths for file in find_files(path) for record in _read_file(file)]
    if not records:
        raise ConfigError(f"the audit files hold no records ({OF_A_SERVER})")
    return sorted(records, key=lambda record: record.instant)


def find_files(path: Path) -> list[Path]:
    """Return the files of an audit log's folder, or of a run of camserve explain; a file is itself."""
    if not path.is_dir():
        return [path]
    shards = sorted((path / SHARDS).glob("*.parquet"))
    return shards or [*sorted(path.glob(PATTERN)), *sorted(path.glob(ANSWERS))]


def _read_file(path: Path) -> Iterator[AuditRecord]:
    if path.suffix == ".parquet":
        yield from read_shard_records(path)
        return
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            block = json.loads(line)
            if (record := block.get("audit", block)) is not None:  # else it is a picture that nobody saw
                yield read_record(record)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if number == len(lines) and not text.endswith("\n"):
                continue  # a worker was killed over it
            raise ConfigError(f"{path}, line {number}, is no audit record: {error}") from None


def sample_of(records: Sequence[AuditRecord]) -> list[AuditRecord]:
    """Return the records from random sampling, which are representative of all traffic."""
    return [record for record in records if record.reason == SAMPLED]


def reference_bins(baseline: Baseline) -> Bins:
    """Return the baseline's counts by feature and bin, named as in the metrics."""
    found = {name: _named(bins.counts) for name, bins in baseline.signals.items()}
    return {**found, CLASSES: dict(zip(class_names(baseline), map(float, baseline.classes.counts)))}


def _named(counts: Iterable[int]) -> dict[str, float]:
    return {f"b{number}": float(count) for number, count in enumerate(counts)}


def class_names(baseline: Baseline) -> list[str]:
    """Return the names of the bins of classes."""
    return class_labels(baseline.classes.top) or ["other"]


def bin_of(name: str, value: float, baseline: Baseline) -> int:
    """Return the bin that a signal's value falls into."""
    return int(np.searchsorted(baseline.signals[name].edges, value, side="right"))


def count_bins(records: Sequence[AuditRecord], baseline: Baseline) -> Bins:
    """Count records into the baseline's bins."""
    found: Bins = {}
    for name, bins in baseline.signals.items():
        values = [record.signals[name] for record in records if name in record.signals]
        place = np.searchsorted(bins.edges, values, side="right")
        found[name] = _named(np.bincount(place, minlength=len(bins.counts)).tolist())
    return {**found, CLASSES: _count_classes(records, baseline)}


def _count_classes(records: Sequence[AuditRecord], baseline: Baseline) -> dict[str, float]:
    counts = Counter(int(record.best["index"]) for record in records if record.best)
    top = {index: float(counts.pop(index, 0)) for index in baseline.classes.top}
    return dict(zip(class_names(baseline), [*top.values(), float(sum(counts.values()))]))


def windows_of(records: Sequence[AuditRecord], seconds: float) -> dict[float, list[AuditRecord]]:
    """Group records by the window, by its start, that they fall into."""
    found: dict[float, list[AuditRecord]] = {}
    for record in records:
        found.setdefault(record.instant - record.instant % seconds, []).append(record)
    return found
