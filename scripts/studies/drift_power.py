"""Which family of signals sees which fault, after how many requests, and what a clean month raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camserve.build.baseline.measure import quantile_bins
from camserve.drift.statistics import ALARM_WINDOWS, STARTS, compare_counts, estimated_accuracy, log_e_detector
from camserve.monitor.signals import COLUMNS, NAMES, SIGNALS
from drift_measure import Condition
from shifts import SHIFTS

FAMILIES = ("inputs", "predictions", "explanations")


@dataclass(frozen=True)
class Design:
    """How the measurements are compared: disjoint draws of the same photos, again and again."""

    windows: tuple[int, ...] = (10, 25, 50, 100, 200)  # requests; the bins and counts of all others are the baseline
    repeats: int = 1000
    false_alarms: float = 0.001  # a family; Bonferroni over its signals


def power(conditions: Mapping[str, Condition], design: Design, seed: int = 0) -> dict[str, np.ndarray]:
    """Return, for each condition, how often each family alarms: (families, windows), shares of the repeats."""
    random = np.random.default_rng(seed)
    clean = conditions["clean"].values
    alarms = {name: np.zeros((len(FAMILIES), len(design.windows))) for name in conditions}
    for _ in range(design.repeats):
        order = random.permutation(len(clean))
        for at, size in enumerate(design.windows):
            shown, known = order[:size], order[size:]
            for number, family in enumerate(FAMILIES):
                columns = COLUMNS[family]
                cuts = [_cut(clean[known, column], SIGNALS[NAMES[column]].bins) for column in columns]
                level = design.false_alarms / len(columns)
                for name, condition in conditions.items():
                    alarms[name][number, at] += _alarms(cuts, condition.values[shown][:, columns], level)
    return {name: count / design.repeats for name, count in alarms.items()}


def _cut(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    made = quantile_bins(values[np.isfinite(values)], bins)
    return np.array(made.edges), np.array(made.counts)


def _alarms(cuts: Sequence[tuple[np.ndarray, np.ndarray]], values: np.ndarray, level: float) -> bool:
    for (edges, counts), column in zip(cuts, values.T):
        place = np.searchsorted(edges, column[np.isfinite(column)], side="right")
        live = np.bincount(place, minlength=len(counts))
        if len(counts) > 1 and compare_counts(counts, live).p < level:
            return True
    return False


@dataclass(frozen=True)
class Estimate:
    """Accuracy under one shift, and what is estimated without labels."""

    accuracy: float
    estimated: float  # mean over the repeats
    single_error: float  # mean absolute error of one estimate on a window of the largest size


def estimate_accuracy(conditions: Mapping[str, Condition], design: Design, seed: int = 0) -> dict[str, Estimate]:
    """Learn threshold and bins on the clean reference; estimate the accuracy on the largest window under each shift."""
    random = np.random.default_rng(seed)
    column = NAMES.index("confidence")
    clean = conditions["clean"]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in conditions}
    for _ in range(design.repeats):
        order = random.permutation(len(clean.right))
        others, known = np.split(order, [max(design.windows)])
        ordered = np.sort(clean.values[known, column])
        threshold = ordered[min(int((~clean.right[known]).sum()), len(known) - 1)]
        bins = quantile_bins(clean.values[known, column], SIGNALS["confidence"].bins)
        for name, condition in conditions.items():
            confidence = condition.values[others, column]
            live = np.bincount(np.searchsorted(bins.edges, confidence, side="right"), minlength=len(bins.counts))
            above = float((confidence >= threshold).mean())
            estimate = estimated_accuracy(float(clean.right[known].mean()), above, bins, live)
            found[name].append((condition.right[others].mean(), estimate))
    return {
        name: Estimate(
            float(np.mean([right for right, _ in pairs])),
            float(np.mean([estimate for _, estimate in pairs])),
            float(np.mean([abs(estimate - right) for right, estimate in pairs])),
        )
        for name, pairs in found.items()
    }


@dataclass(frozen=True)
class CleanMonth:
    """What a month without any shift raised."""

    features: int
    evaluations: int  # of the rules, a feature
    highest_z: float
    alarms: int  # of the rules
    highest_e: float
    sequential_alarms: int


QUARTERS = 4  # evaluations an hour; an alert waits for one quarter


def clean_month(clean: Condition, reference: int, hourly: int, days: int = 30, seed: int = 0) -> CleanMonth:
    """Simulate clean days: reference and traffic are both drawn from the photos, so that they come from one source.

    The rules look every quarter at the hour and at the day before it and wait for a second look; the sequential
    detector looks every hour.
    """
    random = np.random.default_rng(seed)
    values = clean.values[np.isfinite(clean.values).all(axis=1)]
    drawn = values[random.integers(len(values), size=reference)]
    traffic = random.integers(len(values), size=(days * 24 * QUARTERS, hourly // QUARTERS))
    highest, alarms, evaluations, histories = -np.inf, 0, 0, {}
    for column, name in enumerate(NAMES):
        edges, counts = _cut(drawn[:, column], SIGNALS[name].bins)
        if len(counts) < 2:
            continue
        place = np.searchsorted(edges, values[:, column], side="right")
        quarters = np.stack([np.bincount(quarter, minlength=len(counts)) for quarter in place[traffic]])
        histories[name] = counts, quarters.reshape(-1, QUARTERS, len(counts)).sum(axis=1)
        for span in (QUARTERS, 24 * QUARTERS):
            sums = np.cumsum(np.concatenate([np.zeros((1, len(counts)), int), quarters]), axis=0)
            drifts = [compare_counts(counts, window) for window in sums[span:] - sums[:-span]]
            highest = max(highest, *(drift.z for drift in drifts))
            alarms += sum(one.alarms and other.alarms for one, other in zip(drifts, drifts[1:]))
            evaluations += len(drifts)
    peaks = [
        log_e_detector({name: (m, n[max(0, hour - STARTS) : hour]) for name, (m, n) in histories.items()})[0]
        for hour in range(1, days * 24 + 1)
    ]
    return CleanMonth(
        len(histories),
        evaluations // len(histories),
        float(highest),
        int(alarms),
        float(np.exp(max(peaks))),
        int(sum(peak >= np.log(ALARM_WINDOWS) for peak in peaks)),
    )


def table(
    conditions: Mapping[str, Condition],
    found: Mapping[str, np.ndarray],
    estimates: Mapping[str, Estimate],
    at: Sequence[int],
) -> list[str]:
    """Return the lines of a Markdown table: accuracy, its estimate, and each family's power at some of the windows."""
    lines = [
        "| shift | accuracy | estimated | " + " | ".join(FAMILIES) + " | self-test |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, condition in conditions.items():
        estimate = estimates[name]
        shares = " | ".join(" / ".join(f"{share:.2f}" for share in family[list(at)]) for family in found[name])
        caught = "refuses to load" if condition.caught else ""
        lines.append(
            f"| {name}: {SHIFTS[name].meaning} | {estimate.accuracy:.2f} | {estimate.estimated:.2f} "
            f"| {shares} | {caught} |"
        )
    return lines
