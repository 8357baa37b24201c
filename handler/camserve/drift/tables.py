"""The report's tables: drift by feature, changes after a clean period, and the predicted classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape

import numpy as np

from camserve.drift.audit_log import CLASSES, CLASSES_CAUSE
from camserve.drift.charts import format_instant
from camserve.drift.counts import aligned
from camserve.drift.periods import Comparison, Separation, holm
from camserve.drift.statistics import MINIMUM_REQUESTS, PSI_ALARM, Z_ALARM, Drift
from camserve.drift.traffic import Traffic
from camserve.drift.watcher import can_drift
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.signals import SIGNALS

MAX_CLASSES = 15
TOO_FEW = f"too few requests: {MINIMUM_REQUESTS} are needed"
TEXTS = ("family", "moved", "likeliest cause")  # columns of words, which begin at the left
SURE = 0.01  # p-value, after Holm's correction for the number of features
FAMILIES = {**{name: (signal.family, signal.cause) for name, signal in SIGNALS.items()}, CLASSES: CLASSES_CAUSE}


def find_drifts(traffic: Traffic) -> dict[str, Drift]:
    """Return the drift over the whole record of every feature with enough requests to judge, strongest first."""
    drifts = {name: traffic.drift(name, traffic.live) for name in traffic.reference}
    found = {name: drift for name, drift in drifts.items() if drift is not None}
    return dict(sorted(found.items(), key=lambda drift: -drift[1].z))


def drift_table(traffic: Traffic) -> str:
    """Return the table of all features."""
    drifts = find_drifts(traffic)
    rows = []
    for (name, drift), p in zip(drifts.items(), holm([drift.p for drift in drifts.values()])):
        alarms = drift.psi > PSI_ALARM and p < SURE
        family, cause = FAMILIES[name]
        numbers = [str(drift.requests), f"{drift.z:.1f}", drift.moved, f"{drift.psi:.3f}", f"{p:.2g}"]
        rows.append(_row([name, family, *numbers, cause if alarms else ""], alarms))
    rows += [
        _row([name, FAMILIES[name][0], str(count), *[""] * 4, TOO_FEW]) for name, count in _scarce(traffic).items()
    ]
    head = ["feature", "family", "requests", "z", "moved", "PSI", "p (Holm)", "likeliest cause"]
    note = f"Red: PSI above {PSI_ALARM} and p below {SURE}. The alert rules ask for z above {Z_ALARM}."
    return f"<p class='soft'>{note}</p>{_table(head, rows)}"


def _scarce(traffic: Traffic) -> dict[str, int]:
    """Return of each feature with too few requests to judge how many it has."""
    counts = {name: int(aligned(bins, traffic.live[name])[1].sum()) for name, bins in traffic.reference.items()}
    judged = {name for name, bins in traffic.reference.items() if can_drift(bins)}
    return {name: count for name, count in counts.items() if name in judged and 0 < count < MINIMUM_REQUESTS}


def change_table(found: Comparison) -> str:
    """Return the table of all signals after the clean period, and what a classifier makes of them together."""
    rows = []
    for change in found.changes:
        alarms = change.p < SURE
        family, cause = FAMILIES[change.signal]
        numbers = [*map(str, change.requests), *(f"{median:.3g}" for median in change.medians)]
        numbers += [f"{change.distance:.3f}", f"{change.p:.2g}"]
        rows.append(_row([change.signal, family, *numbers, cause if alarms else ""], alarms))
    head = ["signal", "family", "clean", "later", "median, clean", "median, later", "distance (KS)", "p (Holm)"]
    note = (
        f"Values after {format_instant(found.until)} UTC against those before, by the Kolmogorov-Smirnov test. "
        f"Red: p below {SURE}."
    )
    table = _table([*head, "likeliest cause"], rows)
    return f"<p class='soft'>{note}</p>{table}<p>{_describe(found.separation)}</p>"


def _describe(found: Separation) -> str:
    clean, later = found.requests
    figures = f"All signals together: AUC {found.auc:.3f}, p {found.p:.2g}, {later} later requests against {clean}. "
    if found.p >= SURE:
        return figures + "A classifier cannot tell the periods apart."
    relies = ", ".join(f"{name} ({value:+.2f})" for name, value in found.relies.items())
    return f"<b>{figures}A classifier tells the periods apart. Its score follows {relies}.</b>"


def class_table(traffic: Traffic) -> str:
    """Return the table of the classes that were predicted most often."""
    groups: dict[str, list[AuditRecord]] = defaultdict(list)
    for record in traffic.records:
        if record.best and "probability" in record.best:
            groups[str(record.best["label"])].append(record)
    rows = []
    for label, records in sorted(groups.items(), key=lambda group: -len(group[1]))[:MAX_CLASSES]:
        confidence = np.mean([record.predictions[0]["probability"] for record in records])
        unlike = np.mean(["ood" in record.flags for record in records])
        borders = [record.signals["border"] for record in records if "border" in record.signals]
        border = f"{np.mean(borders):.3f}" if borders else ""
        rows.append(_row([label, str(len(records)), f"{confidence:.3f}", f"{unlike:.1%}", border]))
    return _table(["predicted class", "requests", "mean confidence", "out of distribution", "mean border"], rows)


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    names = "".join(f"<th{_aligned(name in TEXTS)}>{escape(name)}</th>" for name in head)
    return f"<div class='table'><table><tr>{names}</tr>{''.join(rows)}</table></div>"


def _row(values: Sequence[str], alarms: bool = False) -> str:
    columns = "".join(f"<td{_aligned(value[:1].isalpha())}>{escape(value)}</td>" for value in values)
    return f"<tr{' class=' + repr('alarm') if alarms else ''}>{columns}</tr>"


def _aligned(left: bool) -> str:
    return " class='text'" if left else ""
