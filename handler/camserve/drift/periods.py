"""A later period of the audit log beside an earlier, clean one: tests on the values themselves, not on bins.

Both tests assume independent requests. The baseline plays no part: a change from before the end of the clean period
is in both periods and not found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camserve.drift.statistics import MINIMUM_REQUESTS
from camserve.errors import ConfigError
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.signals import SIGNALS

TERMS = 100  # of Kolmogorov's series, which has converged long before
NEGLIGIBLE = 0.3  # Kolmogorov's statistic below which its p-value is 1 to five digits, and the series slow
FOLDS = 5
SHUFFLES = 999
MAX_ROWS = 2000  # of each period that the classifier sees; more would cost minutes
RIDGE = 1.0  # beside thousands of rows of unit variance: keeps signals that repeat each other solvable
NAMED = 3  # signals on which the classifier relies most
SEED = 0


@dataclass(frozen=True)
class Change:
    """One signal in two periods."""

    signal: str
    requests: tuple[int, int]  # clean, later
    medians: tuple[float, float]
    distance: float  # the largest difference between the shares of requests below any one value, 0..1
    p: float  # corrected for the number of signals


@dataclass(frozen=True)
class Separation:
    """How well a classifier separates the later requests from the clean ones."""

    requests: tuple[int, int]  # clean, later
    auc: float  # probability that the later of two requests gets the higher score; 0.5: chance
    p: float
    relies: Mapping[str, float]  # correlation of the score with the signals that are most like it


@dataclass(frozen=True)
class Comparison:
    """A later period beside a clean one."""

    until: float  # seconds since 1970 at which the clean period ends
    changes: Sequence[Change]  # the surest first
    separation: Separation


def compare_periods(sample: Sequence[AuditRecord], until: float) -> Comparison:
    """Compare the requests of the blind sample from an instant on with those before it.

    ConfigError: a period has fewer than ``MINIMUM_REQUESTS`` requests with signals.
    """
    periods = [[record for record in sample if record.signals and (record.instant >= until) == late] for late in (0, 1)]
    clean, later = (_table(records) for records in periods)
    if min(len(clean), len(later)) < MINIMUM_REQUESTS:
        raise ConfigError(
            f"each period needs {MINIMUM_REQUESTS} sampled requests with signals: there are {len(clean)} before the "
            f"end of the clean one and {len(later)} after it"
        )
    enough = [(np.isfinite(values).sum(axis=0) >= MINIMUM_REQUESTS) for values in (clean, later)]
    columns = np.flatnonzero(enough[0] & enough[1])
    names = [list(SIGNALS)[column] for column in columns]
    clean, later = clean[:, columns], later[:, columns]
    return Comparison(until, _changes(names, clean, later), separate(names, clean, later))


def _table(records: Sequence[AuditRecord]) -> np.ndarray:
    rows = [[record.signals.get(name, math.nan) for name in SIGNALS] for record in records]
    return np.array(rows, float).reshape(len(rows), len(SIGNALS))


def _changes(names: Sequence[str], clean: np.ndarray, later: np.ndarray) -> list[Change]:
    pairs = [(before[np.isfinite(before)], after[np.isfinite(after)]) for before, after in zip(clean.T, later.T)]
    tested = [kolmogorov_smirnov(before, after) for before, after in pairs]
    sure = holm([p for _, p in tested])
    changes = [
        Change(name, (len(before), len(after)), (float(np.median(before)), float(np.median(after))), distance, p)
        for name, (before, after), (distance, _), p in zip(names, pairs, tested, sure)
    ]
    return sorted(changes, key=lambda change: (change.p, -change.distance))


def kolmogorov_smirnov(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the two-sample statistic of (M,) and (N,) finite values, and its p-value (Smirnov 1948).

    The p-value is asymptotic, with Stephens' correction for small samples (1970); equal values make it larger.
    """
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    root = math.sqrt(len(one) * len(other) / len(values))
    statistic = (root + 0.12 + 0.11 / root) * distance
    if statistic < NEGLIGIBLE:
        return distance, 1.0
    at = np.arange(1, TERMS + 1)
    series = (-1.0) ** (at - 1) * np.exp(-2 * (at * statistic) ** 2)
    return distance, float(min(max(2 * series.sum(), 0.0), 1.0))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979)."""
    order = np.argsort(values)
    corrected = np.maximum.accumulate([(len(values) - rank) * values[at] for rank, at in enumerate(order)])
    back = np.empty(len(values))
    back[order] = np.minimum(corrected, 1.0)
    return back.tolist()


def separate(names: Sequence[str], clean: np.ndarray, later: np.ndarray) -> Separation:
    """Train a classifier to separate (N, S) later rows from (M, S) clean ones, and test it on others.

    A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545): the ranks of all signals, those that a
    row lacks in the middle, and Fisher's discriminant by ridge regression, which answers all shuffles of the labels
    at once. The score is the mean AUC over the folds held out; the p-value is the share of shuffles, the true order
    among them, that do as well, so that it holds at any number of requests.
    """
    random = np.random.default_rng(SEED)
    clean, later = (values[random.permutation(len(values))[:MAX_ROWS]] for values in (clean, later))
    ranks = _ranks(np.concatenate([clean, later]))
    labels = np.repeat([0.0, 1.0], (len(clean), len(later)))
    shuffled = np.stack([labels, *(random.permutation(labels) for _ in range(SHUFFLES))], axis=1)
    # Rows in a random order too: equal scores are ranked by place, which must not depend on the period.
    folds = np.array_split(random.permutation(len(labels)), FOLDS)
    own = np.empty(len(labels))
    areas = np.zeros(1 + SHUFFLES)
    for held_out in folds:
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        scores = ranks[held_out] @ _discriminants(ranks[rest], shuffled[rest])
        areas += _auc(scores, shuffled[held_out]) / FOLDS
        own[held_out] = scores[:, 0]
    likeness = ranks.T @ _standard(own) / len(labels)
    most = np.argsort(-np.abs(likeness))[:NAMED]
    return Separation(
        (len(clean), len(later)),
        float(areas[0]),
        float(np.mean(areas >= areas[0])),
        {names[at]: float(likeness[at]) for at in most},
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of (N, S) values in their columns, of mean 0 and variance 1: equal ones alike, NaN at 0."""
    found = np.zeros(values.shape)
    for column, signal in enumerate(values.T):
        known = np.isfinite(signal)
        _, place, counts = np.unique(signal[known], return_inverse=True, return_counts=True)
        middles = np.cumsum(counts) - counts / 2
        found[known, column] = middles[place] - known.sum() / 2
    return _standard(found)


def _standard(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=0)
    deviation = centred.std(axis=0)
    return np.asarray(centred / np.where(deviation > 0, deviation, 1.0))


def _discriminants(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the weights (S, P) that separate the classes of (N, S) rows, for each of (N, P) labels."""
    centred = rows - rows.mean(axis=0)
    return np.linalg.solve(centred.T @ centred + RIDGE * np.eye(rows.shape[1]), centred.T @ labels)


def _auc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the areas under the ROC curves, (P,), of (N, P) scores for (N, P) labels (Mann and Whitney 1947)."""
    places = scores.argsort(axis=0, kind="stable")
    ordered = np.take_along_axis(labels, places, axis=0)
    positive = ordered.sum(axis=0)
    rank_sum = np.arange(1, len(scores) + 1) @ ordered
    return np.asarray((rank_sum - positive * (positive + 1) / 2) / (positive * (len(scores) - positive)))
