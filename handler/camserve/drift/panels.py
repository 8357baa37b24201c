"""The dashboard's panels drawn from audit records: the same titles, without a server or a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

import camserve.drift.chart as chart
from camserve.drift.audit_log import CLASSES, Record, class_names, count_bins, reference_bins, windows_of
from camserve.drift.chart import Points
from camserve.drift.counts import Bins, aligned
from camserve.drift.statistics import (
    ALARM_WINDOWS,
    MINIMUM_REQUESTS,
    Z_ALARM,
    Drift,
    compare,
    estimated_accuracy,
    log_e_detector,
)
from camserve.drift.watcher import can_drift
from camserve.monitor.baseline import Baseline
from camserve.monitor.counters import QUANTILES, RECENT
from camserve.monitor.signals import SIGNALS
from camserve.values import TRAITS

SPANS = (60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)  # seconds that a window may have
MOST_WINDOWS = 48
LEAST_EVIDENCE, MOST_EVIDENCE = 1e-3, 1e12  # that are drawn
FULL_Z = 10.0  # a drift z that is drawn in full color


@dataclass(frozen=True)
class Traffic:
    """One version's sampled records beside its baseline."""

    records: Sequence[Record]  # the sample, oldest first
    baseline: Baseline

    @property
    def span(self) -> float:
        """Seconds from the first record to the last."""
        return self.records[-1].instant - self.records[0].instant

    @cached_property
    def seconds(self) -> float:
        """Length of a window, in seconds: long enough to judge drift in it."""
        shortest = max(self.span / MOST_WINDOWS, self.span * 2 * MINIMUM_REQUESTS / len(self.records))
        return next((each for each in SPANS if each >= shortest), SPANS[-1])

    @cached_property
    def windows(self) -> dict[float, list[Record]]:
        """The records of each window, by its start."""
        return windows_of(self.records, self.seconds)

    @cached_property
    def stages(self) -> list[str]:
        """The stages that the records tell the time of."""
        return sorted({name for record in self.records for name in record.timing_ms} - {"all"})

    @cached_property
    def reference(self) -> Bins:
        """The baseline's counts."""
        return reference_bins(self.baseline)

    @cached_property
    def live(self) -> Bins:
        """All counts."""
        return count_bins(self.records, self.baseline)

    @cached_property
    def counted(self) -> dict[float, Bins]:
        """The counts of each window."""
        return {start: count_bins(each, self.baseline) for start, each in self.windows.items()}

    def drift(self, feature: str, counts: Bins) -> Drift | None:
        """Compare one feature, if there are requests enough to judge."""
        m, n = aligned(self.reference[feature], counts[feature])
        if n.sum() < MINIMUM_REQUESTS or not can_drift(self.reference[feature]):
            return None
        return compare(m, n, feature != CLASSES)

    def means(self, name: str) -> Points:
        """Return a signal's mean in each window."""
        return [
            (start, float(np.mean(values)))
            for start, each in self.windows.items()
            if (values := [record.signals[name] for record in each if name in record.signals])
        ]

    def shares(self, holds: Callable[[Record], bool], among: Callable[[Record], bool]) -> Points:
        """Return in each window the share of records, among some, of which something holds."""
        return [
            (start, float(np.mean(values)))
            for start, each in self.windows.items()
            if (values := [holds(record) for record in each if among(record)])
        ]

    def level(self, value: float | None) -> Points:
        """Return a constant, for the length of the record."""
        return [] if value is None else [(start, value) for start in self.windows]


def _answered(record: Record) -> bool:
    return record.outcome == "ok"


def outcomes(traffic: Traffic) -> str:
    """Requests a second of the sample, by outcome."""
    codes = sorted({record.outcome for record in traffic.records})
    series = {
        code: [
            (start, sum(record.outcome == code for record in each) / traffic.seconds)
            for start, each in traffic.windows.items()
        ]
        for code in codes
    }
    return chart.lines(series, low=0.0)


def latency(traffic: Traffic) -> str:
    """Milliseconds in the handler."""
    series = {
        name: [
            (start, float(np.quantile(values, share)))
            for start, each in traffic.windows.items()
            if (values := [record.timing_ms["all"] for record in each if "all" in record.timing_ms])
        ]
        for name, share in QUANTILES.items()
    }
    return chart.lines(series, low=0.0)


def stages(traffic: Traffic) -> str:
    """Milliseconds by stage, mean of a request."""
    series = {
        name: [(start, _mean_stage(each, name)) for start, each in traffic.windows.items()] for name in traffic.stages
    }
    return chart.lines(series, low=0.0)


def _mean_stage(records: Iterable[Record], name: str) -> float:
    values = [record.timing_ms.get(name, 0.0) for record in records if record.timing_ms]
    return float(np.mean(values)) if values else float("nan")


def slowest(traffic: Traffic) -> str:
    """Milliseconds by stage, quantiles of the newest records."""
    recent = [record.timing_ms for record in traffic.records if record.timing_ms][-RECENT:]
    if not recent:
        return chart.lines({})
    times = np.array([[each.get(name, 0.0) for name in traffic.stages] for each in recent])
    found = np.quantile(times, list(QUANTILES.values()), axis=0).T
    return chart.table(traffic.stages, list(QUANTILES), found, lambda value: chart.ramp(value / max(found.max(), 1e-9)))


def accuracy(traffic: Traffic) -> str:
    """The accuracy as estimated without labels, and the baseline's."""
    known = traffic.baseline.accuracy
    if known is None:
        return chart.lines({})
    bins, reference = traffic.baseline.signals["confidence"], traffic.reference["confidence"]
    estimated = [
        (start, estimated_accuracy(known.accuracy, above, bins, live))
        for start, above in traffic.shares(lambda record: "atc" in record.flags, _answered)
        if (live := aligned(reference, traffic.counted[start]["confidence"])[1]).any()
    ]
    series = {"estimated": estimated, "baseline": traffic.level(known.accuracy)}
    return chart.lines(series, low=0.0, high=1.0)


def confidence(traffic: Traffic) -> str:
    """Share of each window in each of the baseline's bins of confidence."""
    bins = sorted(traffic.reference["confidence"])
    rows = np.array(
        [aligned(traffic.reference["confidence"], each["confidence"])[1] for each in traffic.counted.values()]
    )
    shares = (rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)).T[::-1]
    columns = [chart.brief(start, traffic.span) for start in traffic.windows]
    names = [_range(traffic, name) for name in reversed(bins)]
    return chart.table(names, columns, shares, lambda value: chart.ramp(value / max(shares.max(), 1e-9)))


def _range(traffic: Traffic, name: str) -> str:
    edges = (0.0, *traffic.baseline.signals["confidence"].edges, 1.0)
    at = int(name[1:])
    return f"{edges[at]:.2f} to {edges[at + 1]:.2f}"


def classes(traffic: Traffic) -> str:
    """Shares of the baseline's commonest classes."""
    names = class_names(traffic.baseline)
    pairs = [(traffic.live[CLASSES].get(name, 0.0), traffic.reference[CLASSES].get(name, 0.0)) for name in names]
    live, reference = (np.array(each) / max(sum(each), 1) for each in zip(*pairs))
    return chart.bars(names, {"live": live.tolist(), "baseline": reference.tolist()})


def mean_of(name: str) -> Callable[[Traffic], str]:
    """Draw one signal's mean beside the baseline's."""

    def draw(traffic: Traffic) -> str:
        known = traffic.baseline.signals.get(name)
        series = {"live": traffic.means(name), "baseline": traffic.level(known.mean if known else None)}
        return chart.lines(series)

    return draw


def centroids(traffic: Traffic) -> str:
    """Each record's centre of evidence, and the baseline's mean."""
    names = ("centroid_x", "centroid_y")
    points = [
        (record.signals[names[0]], record.signals[names[1]])
        for record in traffic.records
        if all(name in record.signals for name in names)
    ]
    known = [traffic.baseline.signals[name].mean for name in names if name in traffic.baseline.signals]
    return chart.scatter({"live": points, "baseline's mean": [tuple(known)] if len(known) == 2 else []}, names)


def blanks(traffic: Traffic) -> str:
    """Share of blank maps."""
    drawn = traffic.shares(lambda record: "blank" in record.flags, lambda record: bool(record.statuses))
    return chart.lines({"live": drawn, "baseline": traffic.level(traffic.baseline.shares.get("blank"))}, low=0.0)


def inputs(traffic: Traffic) -> str:
    """How far each input signal's mean lies from the baseline's, in its standard deviations."""
    known = {
        name: each
        for name, each in traffic.baseline.signals.items()
        if SIGNALS[name].family == "inputs" and each.sd > 0
    }
    series = {
        name: [(start, (mean - each.mean) / each.sd) for start, mean in traffic.means(name)]
        for name, each in known.items()
    }
    return chart.lines(series)


def formats(traffic: Traffic) -> str:
    """Shares of the formats in which answered pictures were sent."""
    names = sorted({record.format for record in traffic.records if _answered(record)})
    series = {name: traffic.shares(partial(_sent_as, name), _answered) for name in names}
    return chart.lines(series, low=0.0, high=1.0)


def _sent_as(name: str, record: Record) -> bool:
    return record.format == name


def traits(traffic: Traffic) -> str:
    """Shares of answered pictures that were grey, rotated, animated ... and so were converted."""
    return chart.lines(
        {name: traffic.shares(partial(_has_trait, name), _answered) for name in TRAITS}, low=0.0, high=1.0
    )


def _has_trait(name: str, record: Record) -> bool:
    return name in record.traits


def unlike(traffic: Traffic) -> str:
    """Share of pictures that are out of distribution."""
    drawn = traffic.shares(lambda record: "ood" in record.flags, _answered)
    return chart.lines({"live": drawn, "baseline": traffic.level(traffic.baseline.shares.get("ood"))}, low=0.0)


def drift_now(traffic: Traffic) -> str:
    """Drift z of every feature in every window."""
    rows = list(traffic.reference)
    found = [[traffic.drift(name, each) for each in traffic.counted.values()] for name in rows]
    values = np.array([[np.nan if each is None else each.z for each in row] for row in found])
    return chart.table(rows, [chart.brief(start, traffic.span) for start in traffic.windows], values, drift_color)


def drift_color(z: float) -> str:
    """Return white below 3, orange to red at the alarm and beyond."""
    share = min(max(z / FULL_Z, 0.0), 1.0)
    return f"rgb(255,{round(255 - 200 * share)},{round(255 - 255 * share)})" if z < Z_ALARM else chart.ALARM


def drift_over_time(traffic: Traffic) -> str:
    """Drift z of the features that drift most."""
    series = {
        name: [(start, each.z) for start, counts in traffic.counted.items() if (each := traffic.drift(name, counts))]
        for name in traffic.reference
    }
    most = sorted(series, key=lambda name: -max((z for _, z in series[name]), default=-np.inf))[: len(chart.COLORS)]
    return chart.lines({name: series[name] for name in most}, alarm=Z_ALARM)


def sequential(traffic: Traffic) -> str:
    """The e-detector after each window, on a log axis."""
    known = {name: bins for name, bins in traffic.reference.items() if can_drift(bins)}
    stacks = {
        name: [aligned(bins, counts[name]) for counts in traffic.counted.values()] for name, bins in known.items()
    }
    points = []
    for at, start in enumerate(traffic.windows, 1):
        histories = {name: (each[0][0], np.stack([n for _, n in each[:at]])) for name, each in stacks.items()}
        points.append((start, float(10 ** min(log_e_detector(histories)[0] / np.log(10), 300))))
    return chart.lines({"evidence": points}, low=LEAST_EVIDENCE, high=MOST_EVIDENCE, alarm=ALARM_WINDOWS, log=True)


PANELS: Mapping[str, Callable[[Traffic], str]] = {
    "Requests by outcome": outcomes,
    "Time in the handler": latency,
    "Time by stage, mean of a request": stages,
    "Time by stage, of a batch now": slowest,
    "Estimated accuracy": accuracy,
    "Confidence over time": confidence,
    "Classes against the baseline": classes,
    "Evidence in the border, by version": mean_of("border"),
    "Effective area, by version": mean_of("area"),
    "Where the evidence lies": centroids,
    "Blank maps": blanks,
    "Inputs against the baseline, in its standard deviations": inputs,
    "Pictures by format": formats,
    "Pictures that were converted, by trait": traits,
    "Pictures unlike the baseline's": unlike,
    "Drift now, z": drift_now,
    "Drift over time, z (alarm at 4.5 with PSI above 0.1)": drift_over_time,
    "Sequential evidence, and its alarm line": sequential,
}
