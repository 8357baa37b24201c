"""How much clean traffic varies by itself: what independent requests would not, and what alarms that would raise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camserve.drift.audit_log import CLASSES, count_bins, reference_bins, sample_of, windows_of
from camserve.drift.counts import Bins, aligned, query
from camserve.drift.statistics import MINIMUM_REQUESTS, compare_counts
from camserve.drift.version import Version
from camserve.drift.watcher import can_drift
from camserve.errors import ConfigError
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.baseline import Baseline

FEWEST_WINDOWS = 24
COUNTERS = "sum by (ModelName, ModelVersion, feature, bin, instance) (cam_bin_total)"
REFERENCE = "max by (ModelName, ModelVersion, feature, bin) (cam_ref_count)"

History = dict[Version, tuple[Bins, list[Bins]]]  # each version's reference and windows


@dataclass(frozen=True)
class Calibration:
    """What clean history says of one feature."""

    feature: str
    windows: int  # with enough requests to judge
    dispersions: Mapping[str, float]  # by test, mean chi-square over its degrees of freedom; of independent requests, 1
    alarms_before: int  # windows in which the rules would have called drift
    alarms_after: int  # the same with the chi-square divided by its dispersion


def calibrate(reference: Bins, windows: Sequence[Bins]) -> list[Calibration]:
    """Judge every feature on clean windows. ConfigError: there are too few of them."""
    found = [
        calibration
        for feature, bins in sorted(reference.items())
        if (calibration := _calibrate_feature(feature, bins, windows)) is not None
    ]
    if not found:
        raise ConfigError(
            f"clean history needs {FEWEST_WINDOWS} windows of {MINIMUM_REQUESTS} requests or more for some feature; "
            f"there are {len(windows)} windows"
        )
    return found


def _calibrate_feature(feature: str, reference: Mapping[str, float], windows: Sequence[Bins]) -> Calibration | None:
    pairs = [aligned(reference, window[feature]) for window in windows if feature in window]
    pairs = [(m, n) for m, n in pairs if n.sum() >= MINIMUM_REQUESTS]
    if len(pairs) < FEWEST_WINDOWS or not can_drift(reference):
        return None
    ordered = feature != CLASSES
    drifts = [compare_counts(m, n, ordered) for m, n in pairs]
    squares = {"omnibus": [drift.chi2 / drift.degrees for drift in drifts]}
    if ordered:
        squares["location"] = [drift.location**2 for drift in drifts if drift.location is not None]
    dispersions = {test: max(1.0, float(np.mean(values))) for test, values in squares.items()}
    after = [compare_counts(m, n, ordered, dispersions) for m, n in pairs]
    before_and_after = (sum(drift.alarms for drift in judged) for judged in (drifts, after))
    return Calibration(feature, len(pairs), dispersions, *before_and_after)


def from_audit(records: Sequence[AuditRecord], version: Version, baseline: Baseline, seconds: float) -> History:
    """Return a version's reference and its windows of ``seconds``. ConfigError: no sampled record is the model's."""
    sample = [record for record in sample_of(records) if record.model == version.model]
    if not sample:
        raise ConfigError(f"the audit files hold no sampled records of {version.model}")
    windows = [count_bins(window, baseline) for window in windows_of(sample, seconds).values()]
    return {version: (reference_bins(baseline), windows)}


def from_prometheus(url: str, start: float, end: float, step: float) -> History:
    """Return each version's reference and its windows between two instants, in seconds since 1970.

    ConfigError: no Prometheus answers.
    """
    references: dict[Version, Bins] = {}
    for series in query(url, REFERENCE, "query", time=end):
        feature, bin_ = series["metric"]["feature"], series["metric"]["bin"]
        references.setdefault(_version(series), {}).setdefault(feature, {})[bin_] = float(series["value"][1])
    added: dict[Version, dict[float, Bins]] = {version: {} for version in references}
    for series in query(url, COUNTERS, "query_range", start=start, end=end, step=step):
        for instant, count in _increases(series["values"]):
            window = added.setdefault(_version(series), {}).setdefault(instant, {})
            bins = window.setdefault(series["metric"]["feature"], {})
            bins[series["metric"]["bin"]] = bins.get(series["metric"]["bin"], 0.0) + count
    return {version: (bins, list(added[version].values())) for version, bins in references.items()}


def _version(series: Mapping[str, Mapping[str, str]]) -> Version:
    return Version(series["metric"].get("ModelName", ""), series["metric"].get("ModelVersion", ""))


def _increases(samples: Sequence[tuple[float, str]]) -> Iterable[tuple[float, float]]:
    values = [(float(instant), float(value)) for instant, value in samples]
    for (_, before), (instant, now) in zip(values, values[1:]):
        yield instant, now - before if now >= before else now  # a counter that fell has restarted


def dispersion_rules(version: Version, found: Sequence[Calibration]) -> dict[str, object]:
    """Return Prometheus rules with the dispersions of each feature's tests, which config/monitoring/rules.yml reads."""
    rules = [
        {
            "record": "cam:dispersion",
            "expr": f"vector({value:.4g})",
            "labels": {
                "ModelName": version.model,
                "ModelVersion": version.version,
                "feature": calibration.feature,
                "test": test,
            },
        }
        for calibration in found
        for test, value in calibration.dispersions.items()
    ]
    return {"groups": [{"name": f"camserve-dispersion-{version.model}-{version.version}", "rules": rules}]}
