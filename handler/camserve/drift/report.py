"""The offline report: audit records beside a baseline, as one HTML file that needs no network."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

import camserve.drift.chart as chart
from camserve.drift.audit_log import CLASSES, CLASSES_TOLD, Record, bin_of, sample_of
from camserve.drift.counts import aligned
from camserve.drift.panels import PANELS, Traffic
from camserve.drift.periods import Comparison, Separation, compare_periods, holm
from camserve.drift.statistics import PSI_ALARM, SMOOTHING, Z_ALARM, Drift, compare
from camserve.drift.watcher import can_drift
from camserve.monitor.baseline import Baseline
from camserve.monitor.signals import SIGNALS

EXAMPLES = 12
SLICES = 15
FAMILIES = {**{name: (each.family, each.cause) for name, each in SIGNALS.items()}, CLASSES: CLASSES_TOLD}
SURE = 0.01  # p-value, after Holm's correction for the number of features
STYLE = """
body{font:14px/1.45 sans-serif;margin:24px auto;max-width:1440px;padding:0 16px;color:#222}
h1{font-size:22px}h2{font-size:17px;border-bottom:1px solid #ccc;margin-top:32px}
.grid{display:flex;flex-wrap:wrap;gap:14px}figure{margin:0;border:1px solid #ddd;padding:8px;border-radius:4px}
figcaption{font-weight:bold;font-size:12px;margin-bottom:4px;max-width:440px}
table{border-collapse:collapse;font-size:13px}td,th{padding:2px 10px;text-align:right;border-bottom:1px solid #eee}
td:first-child,th:first-child,td.text{text-align:left}tr.alarm td{background:#fde7ea}
.shot{position:relative;width:128px;height:128px;background:#eee}.shot img,.shot svg{position:absolute;inset:0}
.shot img{width:100%;height:100%;object-fit:fill}.small{font-size:11px;width:128px;overflow-wrap:anywhere}
"""


def report(records: Sequence[Record], baseline: Baseline, name: str, clean_until: float | None = None) -> str:
    """Return the HTML of one version's records. The tables and curves rest on the blind sample alone.

    ``clean_until``, in seconds since 1970, ends a period that the rest is compared with, beside the baseline.
    ConfigError: a period has too few requests.
    """
    sample = sample_of(records)
    traffic = Traffic(sample, baseline)
    body = [f"<h1>{escape(name)}: what the model looked at</h1>", _summary(records, traffic)]
    body += ["<h2>Drift by feature</h2>", drift_table(traffic)]
    if clean_until is not None:
        body += ["<h2>After the clean period</h2>", change_table(compare_periods(sample, clean_until))]
    body += ["<h2>Panels</h2>", _panels(traffic)]
    body += ["<h2>Classes</h2>", _slices(traffic)]
    body += ["<h2>Drifting examples</h2>", _examples(drifting(traffic), "how typical of the drift")]
    body += ["<h2>Worst examples</h2>", _examples(worst(records), "energy")]
    return f"<!doctype html><meta charset='utf-8'><title>{escape(name)}</title><style>{STYLE}</style>{''.join(body)}"


def _summary(records: Sequence[Record], traffic: Traffic) -> str:
    outcomes = Counter(record.outcome for record in traffic.records)
    reasons = Counter(record.reason for record in records)
    made = traffic.baseline.provenance
    first, last = traffic.records[0].instant, traffic.records[-1].instant
    lines = [
        f"{len(traffic.records)} sampled requests from {chart.clock(first)} to {chart.clock(last)} UTC: "
        + ", ".join(f"{count} {code}" for code, count in outcomes.most_common()),
        "kept beside the sample: "
        + (", ".join(f"{count} {why}" for why, count in reasons.most_common() if why != "sampled") or "none"),
        f"baseline of {made.images} pictures, {made.date}, {made.method} at {made.layer}",
    ]
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def drifts(traffic: Traffic) -> dict[str, Drift]:
    """Compare every feature over the whole record, strongest first."""
    found = {}
    for name, bins in traffic.reference.items():
        m, n = aligned(bins, traffic.live[name])
        if n.sum() and can_drift(bins):
            found[name] = compare(m, n, name != CLASSES)
    return dict(sorted(found.items(), key=lambda each: -each[1].z))


def drift_table(traffic: Traffic) -> str:
    """Return the table of all features."""
    found = drifts(traffic)
    sure = holm([each.p for each in found.values()])
    rows = []
    for (name, each), p in zip(found.items(), sure):
        family, cause = (
            (SIGNALS[name].family, SIGNALS[name].cause)
            if name in SIGNALS
            else ("predictions", "another mix of subjects")
        )
        alarm = " class='alarm'" if each.psi > PSI_ALARM and p < SURE else ""
        rows.append(
            f"<tr{alarm}><td>{name}</td><td class='text'>{family}</td><td>{each.requests}</td><td>{each.z:.1f}</td>"
            f"<td class='text'>{each.moved}</td>"
            f"<td>{each.psi:.3f}</td><td>{p:.2g}</td><td class='text'>{escape(cause) if alarm else ''}</td></tr>"
        )
    head = "<tr><th>feature<th>family<th>requests<th>z<th>moved<th>PSI<th>p (Holm)<th>likeliest cause</tr>"
    note = f"<p>Red: PSI above {PSI_ALARM} and p below {SURE}. The alert rules ask for z above {Z_ALARM}.</p>"
    return f"{note}<table>{head}{''.join(rows)}</table>"


def change_table(found: Comparison) -> str:
    """Return the table of all signals after the clean period, and what a classifier makes of them together."""
    rows = []
    for each in found.changes:
        signal = SIGNALS[each.signal]
        alarm = " class='alarm'" if each.p < SURE else ""
        (clean, later), (before, after) = each.requests, each.medians
        rows.append(
            f"<tr{alarm}><td>{each.signal}</td><td class='text'>{signal.family}"
            f"</td><td>{clean}</td><td>{later}</td><td>{before:.3g}</td><td>{after:.3g}</td><td>{each.distance:.3f}</td>"
            f"<td>{each.p:.2g}</td><td class='text'>{escape(signal.cause) if alarm else ''}</td></tr>"
        )
    head = (
        "<tr><th>signal<th>family<th>clean<th>later<th>median, clean<th>median, later<th>distance (KS)<th>p (Holm)"
        "<th>likeliest cause</tr>"
    )
    note = (
        f"<p>Values after {chart.clock(found.until)} UTC against those before, by the Kolmogorov-Smirnov test. "
        f"Red: p below {SURE}.</p>"
    )
    return f"{note}<table>{head}{''.join(rows)}</table><p>{_told_apart(found.separation)}</p>"


def _told_apart(found: Separation) -> str:
    clean, later = found.requests
    told = f"All signals together: AUC {found.auc:.3f}, p {found.p:.2g}, {later} later requests against {clean}. "
    if found.p >= SURE:
        return told + "A classifier cannot tell the periods apart."
    relies = ", ".join(f"{name} ({value:+.2f})" for name, value in found.relies.items())
    return f"<b>{told}A classifier tells the periods apart. Its score follows {relies}.</b>"


def _panels(traffic: Traffic) -> str:
    drawn = [
        f"<figure><figcaption>{escape(title)}</figcaption>{draw(traffic)}</figure>" for title, draw in PANELS.items()
    ]
    maps = f"<figure><figcaption>Mean map, baseline and live</figcaption>{_mean_maps(traffic)}</figure>"
    return f"<div class='grid'>{''.join(drawn)}{maps}</div>"


def _mean_maps(traffic: Traffic) -> str:
    grids = [
        record.grid / record.grid.sum() for record in traffic.records if record.grid is not None and record.grid.any()
    ]
    reference = np.array(traffic.baseline.heatmap)
    pairs = [("baseline", reference)] if reference.size else []
    if grids:
        pairs.append(("live", np.mean(grids, axis=0)))
    top = max((grid.max() for _, grid in pairs), default=1.0)
    shots = [f"<div><div class='shot'>{cells(grid / top, 1.0)}</div>{name}</div>" for name, grid in pairs]
    return (
        f"<div class='grid'>{''.join(shots)}</div>" if shots else "no maps: the audit log keeps none (pictures: true)"
    )


def cells(grid: np.ndarray, opacity: float) -> str:
    """Draw a map, (h, w) in 0..1, over the whole of its frame."""
    height, width = grid.shape
    drawn = [
        f'<rect x="{column}" y="{row}" width="1" height="1" fill="{chart.ramp(float(value))}" '
        f'fill-opacity="{opacity if opacity == 1 else round(opacity * float(value), 2)}"/>'
        for (row, column), value in np.ndenumerate(grid)
    ]
    size = f'viewBox="0 0 {width} {height}" width="100%" height="100%"'
    return f'<svg {size} preserveAspectRatio="none">{"".join(drawn)}</svg>'


def _slices(traffic: Traffic) -> str:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in traffic.records:
        if record.predictions:
            groups[str(record.predictions[0]["label"])].append(record)
    rows = []
    for label, each in sorted(groups.items(), key=lambda group: -len(group[1]))[:SLICES]:
        sure = np.mean([record.predictions[0]["probability"] for record in each])
        unlike = np.mean(["ood" in record.flags for record in each])
        border = [record.signals["border"] for record in each if "border" in record.signals]
        rows.append(
            f"<tr><td>{escape(label)}</td><td>{len(each)}</td><td>{sure:.3f}</td><td>{unlike:.1%}</td>"
            f"<td>{np.mean(border) if border else float('nan'):.3f}</td></tr>"
        )
    head = "<tr><th>predicted class<th>requests<th>mean confidence<th>out of distribution<th>mean border</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def drifting(traffic: Traffic) -> list[tuple[Record, float]]:
    """Return the records most typical of what has drifted: the largest log ratio of shares, the latest first."""
    ratios = {name: _ratios(traffic, name) for name, each in drifts(traffic).items() if each.alarms and name in SIGNALS}
    scored = [(record, _typical(record, ratios, traffic.baseline)) for record in traffic.records]
    return sorted(scored, key=lambda each: (-each[1], -each[0].instant))[:EXAMPLES] if ratios else []


def _typical(record: Record, ratios: Mapping[str, np.ndarray], baseline: Baseline) -> float:
    known = [(name, value) for name, value in record.signals.items() if name in ratios]
    return float(sum(ratios[name][bin_of(name, value, baseline)] for name, value in known))


def _ratios(traffic: Traffic, name: str) -> np.ndarray:
    bins = [f"b{number}" for number in range(len(traffic.reference[name]))]
    live, reference = (
        np.array([counts[name][each] for each in bins]) + SMOOTHING for counts in (traffic.live, traffic.reference)
    )
    return np.asarray(np.log(live / live.sum()) - np.log(reference / reference.sum()))


def worst(records: Sequence[Record]) -> list[tuple[Record, float]]:
    """Return the records, sampled or not, that the model knows least."""
    scored = [(record, record.signals["energy"]) for record in records if "energy" in record.signals]
    return sorted(scored, key=lambda each: each[1])[:EXAMPLES]


def _examples(scored: Sequence[tuple[Record, float]], meaning: str) -> str:
    if not scored:
        return "<p>none</p>"
    return f"<div class='grid'>{''.join(_example(record, score, meaning) for record, score in scored)}</div>"


def _example(record: Record, score: float, meaning: str) -> str:
    encoded = base64.b64encode(record.thumbnail).decode()
    picture = f'<img src="data:image/jpeg;base64,{encoded}">' if encoded else ""
    over = cells(record.grid, 0.7) if record.grid is not None else ""
    best = record.predictions[0] if record.predictions else {"label": record.outcome, "probability": float("nan")}
    return (
        f"<figure><div class='shot'>{picture}{over}</div><div class='small'>{escape(str(best['label']))} "
        f"{best['probability']:.2f}<br>{meaning} {score:.2f}<br>{escape(', '.join(record.flags))}<br>"
        f"{escape(record.request_id)}</div></figure>"
    )
