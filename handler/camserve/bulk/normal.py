"""A baseline from what camserve explain kept, without running the network again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from camserve.build.baseline.measure import judge, provenance_of, report_signals_off, summarise_reference
from camserve.build.baseline.reference import Reference
from camserve.build.baseline.truth import read_labels
from camserve.build.mar.unpack import Contents, read_contents, read_heads
from camserve.bulk.folder import read_spec
from camserve.bulk.rows import Row
from camserve.bulk.run import read_run
from camserve.errors import ConfigError
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.baseline import Baseline
from camserve.monitor.signals import NAMES
from camserve.values import Progress


def baseline_of_run(archive: Path, run: Path, labels: Path | None, date: str, report: Progress) -> Baseline:
    """Return the baseline of an archive's model over the pictures of a run that asked it.

    ``report`` gets a line for each signal that is off. ConfigError: another model was asked, or a server, or about
    too few pictures, or none of them has a label.
    """
    contents = read_contents(archive)
    _check_model(contents, run)
    reference = _collect(read_run(run))
    settings, correct = contents.settings, {}
    if labels is not None:
        truth = read_labels(labels, read_heads(archive, contents)[0].labels)
        correct = judge(reference, {name: truth[key] for name in reference.ids for key in _keys(name, truth)})
        if not correct:
            raise ConfigError(f"{labels} names none of the pictures in {run}")
    layer, method = settings.map_source().name, settings.defaults.method.split(",")[0]
    made = provenance_of(settings, layer, method, len(reference.ids), date)
    baseline = summarise_reference(reference, correct, made, settings.monitoring.low_confidence)
    report_signals_off(baseline, report)
    return baseline


def _check_model(contents: Contents, run: Path) -> None:
    model = read_spec(run).model or {}
    weights = f"sha256:{contents.settings.model.source_sha256[:12]}"
    if (model.get("name"), model.get("weights")) != (contents.name, weights):
        raise ConfigError(
            f"{run} is a run of {model.get('name')} with the weights {model.get('weights')}, not {weights}"
        )


def _keys(path: str, truth: Mapping[str, int]) -> list[str]:
    """Return the longest end of a path that is a key of ``truth``, or nothing."""
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return [end for end in ends if end in truth][:1]


def _collect(rows: Iterable[Row]) -> Reference:
    records: list[AuditRecord] = []
    total, mapped = np.zeros(()), 0
    for row in rows:
        if row.record is None or row.answer is None:
            continue
        records.append(row.record)
        if "area" in row.record.signals:  # its first map is one that is compared
            positive = np.maximum(np.array(row.answer["explanations"][0]["grid"]), 0)
            total, mapped = total + positive / positive.sum(), mapped + 1
    values = [[record.signals.get(name, np.nan) for name in NAMES] for record in records]
    return Reference(
        [record.request_id for record in records],
        np.array(values, float).reshape(len(records), len(NAMES)),
        np.array([record.predictions[0]["index"] for record in records], np.int64),
        np.array(["blank" in record.flags for record in records], bool),
        total / mapped if mapped else None,
    )
