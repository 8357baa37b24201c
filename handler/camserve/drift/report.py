"""The offline report: audit records beside a baseline, as one HTML file that needs no network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from camserve.answer.render import Scene, draw, encode
from camserve.answer.respond import word_meaning
from camserve.drift.audit_log import bin_of, sample_of
from camserve.drift.charts import draw_maps, format_instant
from camserve.drift.page import ReportPage
from camserve.drift.panels import PANELS
from camserve.drift.periods import compare_periods
from camserve.drift.statistics import SMOOTHING
from camserve.drift.tables import change_table, class_table, drift_table, find_drifts
from camserve.drift.theme import Chart
from camserve.drift.traffic import Traffic
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.baseline import Baseline
from camserve.monitor.signals import SIGNALS

EXAMPLES = 12
EXAMPLE_SIDE = 256  # pixels, shown at half the size


def write_report(
    records: Sequence[AuditRecord], baseline: Baseline, name: str, clean_until: float | None = None
) -> str:
    """Return the HTML of one version's records; the tables and curves rest on the random sample alone.

    ``clean_until``, in seconds since 1970, ends a period that the rest is compared with, beside the baseline.
    ConfigError: a period has too few requests, or Altair is not installed.
    """
    sample = sample_of(records)
    traffic = Traffic(sample, baseline)
    page = ReportPage(name)
    page.add(f"<h1>{escape(name)}: what the model looked at</h1>", _summary(records, traffic))
    page.add("<h2>Drift by feature</h2>", drift_table(traffic))
    if clean_until is not None:
        page.add("<h2>After the clean period</h2>", change_table(compare_periods(sample, clean_until)))
    page.add("<h2>Panels</h2>")
    page.add_charts({**{title: draw_panel(traffic) for title, draw_panel in PANELS.items()}, **_mean_maps(traffic)})
    page.add("<h2>Classes</h2>", class_table(traffic))
    page.add("<h2>Drifting examples</h2>", _examples(find_drifting(traffic), "how typical of the drift"))
    page.add("<h2>Worst examples</h2>", _examples(find_worst(records), "energy"))
    return page.html()


def _summary(records: Sequence[AuditRecord], traffic: Traffic) -> str:
    outcomes = Counter(record.outcome for record in traffic.records)
    reasons = Counter(record.reason for record in records)
    made = traffic.baseline.provenance
    first, last = traffic.records[0].instant, traffic.records[-1].instant
    lines = [
        f"{len(traffic.records)} sampled requests from {format_instant(first)} to {format_instant(last)} UTC: "
        + ", ".join(f"{count} {code}" for code, count in outcomes.most_common()),
        "kept beside the sample: "
        + (", ".join(f"{count} {reason}" for reason, count in reasons.most_common() if reason != "sampled") or "none"),
        f"baseline of {made.images} pictures, {made.date}, {made.method} at {made.layer}",
    ]
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _mean_maps(traffic: Traffic) -> dict[str, Chart]:
    shares = [
        record.grid / record.grid.sum()
        for record in traffic.records
        if record.grid is not None and record.grid.any() and not record.head
    ]
    found = {
        "baseline": np.array(traffic.baseline.heatmap),
        "live": np.mean(shares, axis=0) if shares else np.array(()),
    }
    drawn = {name: grid for name, grid in found.items() if grid.size}
    return {"Mean map": draw_maps(drawn)} if drawn else {}


def find_drifting(traffic: Traffic) -> list[tuple[AuditRecord, float]]:
    """Return the records most typical of what has drifted: the largest log ratio of shares, the latest first."""
    drifts = find_drifts(traffic)
    ratios = {name: _ratios(traffic, name) for name, drift in drifts.items() if drift.alarms and name in SIGNALS}
    scored = [(record, _typical(record, ratios, traffic.baseline)) for record in traffic.records]
    return sorted(scored, key=lambda pair: (-pair[1], -pair[0].instant))[:EXAMPLES] if ratios else []


def _typical(record: AuditRecord, ratios: Mapping[str, np.ndarray], baseline: Baseline) -> float:
    known = [(name, value) for name, value in record.signals.items() if name in ratios]
    return float(sum(ratios[name][bin_of(name, value, baseline)] for name, value in known))


def _ratios(traffic: Traffic, name: str) -> np.ndarray:
    bins = [f"b{number}" for number in range(len(traffic.reference[name]))]
    live, reference = (
        np.array([counts[name][bin_] for bin_ in bins]) + SMOOTHING for counts in (traffic.live, traffic.reference)
    )
    return np.asarray(np.log(live / live.sum()) - np.log(reference / reference.sum()))


def find_worst(records: Sequence[AuditRecord]) -> list[tuple[AuditRecord, float]]:
    """Return the records, sampled or not, that the model knows least."""
    scored = [(record, record.signals["energy"]) for record in records if "energy" in record.signals]
    return sorted(scored, key=lambda pair: pair[1])[:EXAMPLES]


def _examples(scored: Sequence[tuple[AuditRecord, float]], meaning: str) -> str:
    if not scored:
        return "<p>none</p>"
    return f"<div class='examples'>{''.join(_example(record, score, meaning) for record, score in scored)}</div>"


def _example(record: AuditRecord, score: float, meaning: str) -> str:
    lines = [describe_best(record), f"{meaning} {score:.2f}", ", ".join(record.flags)]
    words = "<br>".join(escape(line) for line in [*lines, record.request_id])
    return f"<figure>{_picture(record)}<div class='small'>{words}</div></figure>"


def describe_best(record: AuditRecord) -> str:
    """Return the first prediction of a record in words, or the code of its refusal."""
    if not record.predictions:
        return record.outcome
    best = record.predictions[0]
    return f"{best['label']} {word_meaning(best, 2)}"


def _picture(record: AuditRecord) -> str:
    """Draw the map over the thumbnail, both stretched to a square: the record does not hold where the map lies."""
    if not record.thumbnail:
        return "<div class='no-picture'></div>"
    shown = Image.open(BytesIO(record.thumbnail)).convert("RGB").resize((EXAMPLE_SIDE, EXAMPLE_SIDE))
    if record.grid is not None:
        region = (0.0, 0.0, float(EXAMPLE_SIDE), float(EXAMPLE_SIDE))
        shown = draw("overlay", Scene(shown, region, record.grid.astype(np.float32)))
    encoded = base64.b64encode(encode(shown, "JPEG")).decode()
    return f"<img alt='' src='data:image/jpeg;base64,{encoded}'>"
