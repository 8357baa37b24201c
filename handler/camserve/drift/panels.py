"""The dashboard's panels drawn from audit records: the same titles, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

import camserve.drift.charts as charts
from camserve.drift.audit_log import CLASSES, NO_CLASSES, class_names
from camserve.drift.charts import PERCENT
from camserve.drift.counts import aligned
from camserve.drift.statistics import ALARM_WINDOWS, MINIMUM_REQUESTS, Z_ALARM, estimated_accuracy
from camserve.drift.theme import Chart, draw_nothing
from camserve.drift.traffic import Traffic
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.series import QUANTILES, RECENT
from camserve.monitor.signals import SIGNALS
from camserve.values import TRAITS

EVIDENCE_AXIS = (1e-3, 1e12)
Z_COLORS = {0.0: "#9aa4ae33", 3.0: "#e69f00", Z_ALARM: "#c4262e"}  # by the least z, as on the dashboard
MAX_POINTS = 2000  # of a scatter plot: more would make the page slow
SHARE = "share of requests"


def _answered(record: AuditRecord) -> bool:
    return record.outcome == "ok"


def draw_outcomes(traffic: Traffic) -> Chart:
    """Requests a second of the sample, by outcome."""
    series = {
        code: [
            (start, sum(record.outcome == code for record in records) / traffic.seconds)
            for start, records in traffic.windows.items()
        ]
        for code in sorted({record.outcome for record in traffic.records})
    }
    return charts.draw_curves(series, "sampled requests per second", zero=True)


def draw_latency(traffic: Traffic) -> Chart:
    """Milliseconds in the handler."""
    series = {
        name: [
            (start, float(np.quantile(values, share)))
            for start, records in traffic.windows.items()
            if (values := [record.timing_ms["all"] for record in records if "all" in record.timing_ms])
        ]
        for name, share in QUANTILES.items()
    }
    return charts.draw_curves(series, "time of a batch (ms)", zero=True)


def draw_stages(traffic: Traffic) -> Chart:
    """Milliseconds by stage, mean of a request."""
    series = {
        name: [(start, _mean_stage(records, name)) for start, records in traffic.windows.items()]
        for name in traffic.stages
    }
    return charts.draw_curves(series, "mean time (ms)", zero=True)


def _mean_stage(records: Iterable[AuditRecord], name: str) -> float:
    values = [record.timing_ms.get(name, 0.0) for record in records if record.timing_ms]
    return float(np.mean(values)) if values else float("nan")


def draw_stage_quantiles(traffic: Traffic) -> Chart:
    """Milliseconds by stage, quantiles of the newest records."""
    recent = [record.timing_ms for record in traffic.records if record.timing_ms][-RECENT:]
    if not recent:
        return draw_nothing()
    times = np.array([[timing.get(name, 0.0) for name in traffic.stages] for timing in recent])
    found = np.quantile(times, list(QUANTILES.values()), axis=0).T
    return charts.draw_cells(traffic.stages, list(QUANTILES), found, ("quantile", "stage", "time (ms)"), write=True)


def draw_accuracy(traffic: Traffic) -> Chart:
    """The accuracy as estimated without labels, and the baseline's."""
    known = traffic.baseline.accuracy
    if known is None or len(traffic.records) < MINIMUM_REQUESTS:
        return draw_nothing("no data" if known is None else traffic.scarcity)
    bins, reference = traffic.baseline.signals["confidence"], traffic.reference["confidence"]
    estimated = [
        (start, estimated_accuracy(known.accuracy, above, bins, live))
        for start, above in traffic.shares(lambda record: "atc" in record.flags, _answered)
        if (live := aligned(reference, traffic.counted[start]["confidence"])[1]).any()
    ]
    series = {"estimated": estimated, "baseline": traffic.level(known.accuracy)}
    return charts.draw_curves(series, "accuracy", number=PERCENT, domain=(0.0, 1.0))


def draw_confidence(traffic: Traffic) -> Chart:
    """Share of each window in each of the baseline's bins of confidence."""
    if not (bins := sorted(traffic.reference.get("confidence", ()))):
        return draw_nothing()
    rows = np.array(
        [aligned(traffic.reference["confidence"], counts["confidence"])[1] for counts in traffic.counted.values()]
    )
    shares = (rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)).T[::-1]
    names = [_range(traffic, name) for name in reversed(bins)]
    return charts.draw_cells(names, _starts(traffic), shares, ("time (UTC)", "confidence", SHARE), number=PERCENT)


def _starts(traffic: Traffic) -> list[str]:
    return [charts.format_briefly(start, traffic.span) for start in traffic.windows]


def _range(traffic: Traffic, name: str) -> str:
    edges = (0.0, *traffic.baseline.signals["confidence"].edges, 1.0)
    at = int(name[1:])
    return f"{edges[at]:.2f} to {edges[at + 1]:.2f}"


def draw_classes(traffic: Traffic) -> Chart:
    """Shares of the baseline's commonest classes."""
    names = class_names(traffic.baseline)
    if not traffic.baseline.classes.top:
        return draw_nothing(NO_CLASSES if CLASSES in traffic.baseline.signals_off else "no data")
    pairs = [(traffic.live[CLASSES].get(name, 0.0), traffic.reference[CLASSES].get(name, 0.0)) for name in names]
    live, reference = (np.array(counts) / max(sum(counts), 1) for counts in zip(*pairs))
    series = {"live": live.tolist(), "baseline": reference.tolist()}
    return charts.draw_bars(names, series, ("predicted class", SHARE))


def draw_mean(name: str, title: str) -> Callable[[Traffic], Chart]:
    """Return the panel of one signal's mean beside the baseline's."""

    def draw(traffic: Traffic) -> Chart:
        known = traffic.baseline.signals.get(name)
        series = {"live": traffic.means(name), "baseline": traffic.level(known.mean if known else None)}
        return charts.draw_curves(series, title, number=PERCENT)

    return draw


def draw_centroids(traffic: Traffic) -> Chart:
    """The centre of evidence of each record, 2,000 at most, and the baseline's mean."""
    names = ("centroid_x", "centroid_y")
    points = [
        (record.signals[names[0]], record.signals[names[1]])
        for record in traffic.records
        if all(name in record.signals for name in names)
    ]
    known = [traffic.baseline.signals[name].mean for name in names if name in traffic.baseline.signals]
    series = {"live": points[:: 1 + len(points) // MAX_POINTS]}
    if len(known) == len(names):
        series["baseline's mean"] = [(known[0], known[1])]
    return charts.draw_points(series, ("share of the width, left to right", "share of the height, downwards"))


def draw_blanks(traffic: Traffic) -> Chart:
    """Share of blank maps."""
    found = traffic.shares(lambda record: "blank" in record.flags, lambda record: bool(record.statuses))
    series = {"live": found, "baseline": traffic.level(traffic.baseline.shares.get("blank"))}
    return charts.draw_curves(series, "share of blank maps", number=PERCENT, zero=True)


def draw_inputs(traffic: Traffic) -> Chart:
    """How far each input signal's mean lies from the baseline's, in its standard deviations."""
    known = {
        name: bins
        for name, bins in traffic.baseline.signals.items()
        if SIGNALS[name].family == "inputs" and bins.sd > 0
    }
    series = {
        name: [(start, (mean - bins.mean) / bins.sd) for start, mean in traffic.means(name)]
        for name, bins in known.items()
    }
    return charts.draw_curves(series, "difference of the means (SD)")


def draw_formats(traffic: Traffic) -> Chart:
    """Shares of the formats in which answered pictures were sent."""
    names = sorted({record.format for record in traffic.records if _answered(record)})
    series = {name: traffic.shares(partial(_is_sent_as, name), _answered) for name in names}
    return charts.draw_curves(series, SHARE, number=PERCENT, domain=(0.0, 1.0))


def _is_sent_as(name: str, record: AuditRecord) -> bool:
    return record.format == name


def draw_traits(traffic: Traffic) -> Chart:
    """Shares of answered pictures that were grey, rotated, animated ... and so were converted."""
    series = {name: traffic.shares(partial(_has_trait, name), _answered) for name in TRAITS}
    return charts.draw_curves(series, SHARE, number=PERCENT, domain=(0.0, 1.0))


def _has_trait(name: str, record: AuditRecord) -> bool:
    return name in record.traits


def draw_unfamiliar(traffic: Traffic) -> Chart:
    """Share of pictures that are out of distribution."""
    found = traffic.shares(lambda record: "ood" in record.flags, _answered)
    series = {"live": found, "baseline": traffic.level(traffic.baseline.shares.get("ood"))}
    return charts.draw_curves(series, SHARE, number=PERCENT, zero=True)


def draw_drift_now(traffic: Traffic) -> Chart:
    """Drift z of every feature in every window."""
    rows = list(traffic.reference)
    found = [[traffic.drift(name, counts) for counts in traffic.counted.values()] for name in rows]
    values = np.array([[np.nan if drift is None else drift.z for drift in row] for row in found])
    titles, columns, nothing = ("time (UTC)", "feature", "drift z"), _starts(traffic), traffic.scarcity
    return charts.draw_cells(rows, columns, values, titles, number=".1f", limits=Z_COLORS, nothing=nothing)


def draw_drift_over_time(traffic: Traffic) -> Chart:
    """Drift z of the features that drift most."""
    series = {
        name: [(start, drift.z) for start, counts in traffic.counted.items() if (drift := traffic.drift(name, counts))]
        for name in traffic.reference
    }
    most = sorted(series, key=lambda name: -max((z for _, z in series[name]), default=-np.inf))[: charts.SERIES]
    return charts.draw_curves({name: series[name] for name in most}, "drift z", alarm=Z_ALARM, nothing=traffic.scarcity)


def draw_evidence(traffic: Traffic) -> Chart:
    """The e-detector after each window, on a log axis."""
    return charts.draw_curves(
        {"evidence": traffic.evidence}, "evidence (e-value)", domain=EVIDENCE_AXIS, alarm=ALARM_WINDOWS, log=True
    )


PANELS: Mapping[str, Callable[[Traffic], Chart]] = {
    "Requests by outcome": draw_outcomes,
    "Time in the handler": draw_latency,
    "Time by stage, mean of a request": draw_stages,
    "Time by stage, of a batch now": draw_stage_quantiles,
    "Estimated accuracy": draw_accuracy,
    "Confidence over time": draw_confidence,
    "Classes against the baseline": draw_classes,
    "Evidence in the border, by version": draw_mean("border", "mean share of the evidence"),
    "Effective area, by version": draw_mean("area", "mean share of the map"),
    "Where the evidence lies": draw_centroids,
    "Blank maps": draw_blanks,
    "Inputs against the baseline, in its standard deviations": draw_inputs,
    "Pictures by format": draw_formats,
    "Pictures that were converted, by trait": draw_traits,
    "Pictures unlike the baseline's": draw_unfamiliar,
    "Drift now, z": draw_drift_now,
    "Drift over time, z (alarm at 4.5 with PSI above 0.1)": draw_drift_over_time,
    "Sequential evidence, and its alarm line": draw_evidence,
}
