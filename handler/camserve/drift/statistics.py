"""Has traffic left its reference? Tests on binned counts, which add up over workers, replicas and hours.

A feature is K bins: the reference holds M requests, live traffic holds N. ``compare_counts`` judges one window by
itself; ``log_e_detector`` accumulates over windows and bounds how often clean traffic may raise an alarm at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from camserve.errors import ConfigError
from camserve.monitor.baseline import Bins

Z_ALARM = 4.5
PSI_ALARM = 0.1
MINIMUM_REQUESTS = 100
# The tests of a feature whose bins have an order, and their shares of its false alarms: faults move values one way
# more often than they scatter them. Classes have the first alone.
TESTS = {"omnibus": 0.1, "location": 0.9}
SMOOTHING = 0.5  # added to every bin, so that an empty one has a logarithm (Jeffreys' prior)
ALARM_WINDOWS = 8760.0  # expected windows between false alarms: a year of hours
STARTS = 168  # windows back at which a change may have begun: a week of hours
UNREPRESENTATIVE = 0.01  # probability that the reference misrepresents its own source
HALVINGS = 32  # to ten digits


@dataclass(frozen=True)
class Drift:
    """How far one feature's window lies from its reference, as two tests see it."""

    requests: int
    chi2: float
    degrees: int
    omnibus: float  # normal deviate of the chi-square: any difference
    location: float | None  # normal deviate of the trend: values lie higher, or lower; None: the bins have no order
    psi: float

    @property
    def z(self) -> float:
        """The normal deviate of the test that speaks loudest."""
        return self.omnibus if self.location is None else max(self.omnibus, abs(self.location))

    @property
    def moved(self) -> str:
        """Where values went, if the location test is above the alarm level: "higher", "lower" or ""."""
        if self.location is None or abs(self.location) <= Z_ALARM:
            return ""
        return "higher" if self.location > 0 else "lower"

    @property
    def p(self) -> float:
        """The probability of such a z on clean traffic, corrected for the number of tests (weighted Bonferroni)."""
        omnibus = math.erfc(self.omnibus / math.sqrt(2)) / 2
        if self.location is None:
            return omnibus
        location = math.erfc(abs(self.location) / math.sqrt(2))  # in both directions
        return min(1.0, omnibus / TESTS["omnibus"], location / TESTS["location"])

    @property
    def alarms(self) -> bool:
        """Whether the shipped alert rules would call this drift."""
        return self.z > Z_ALARM and self.psi > PSI_ALARM and self.requests >= MINIMUM_REQUESTS


def compare_counts(
    reference: np.ndarray, live: np.ndarray, ordered: bool = True, dispersions: Mapping[str, float] | None = None
) -> Drift:
    """Compare (K,) live counts with (K,) reference counts; ``ordered`` says that bins follow from low to high.

    ``dispersions`` holds, by test, what ``calibrate`` found on clean traffic. ConfigError: the bins do not match, or
    the reference is empty.
    """
    _check(reference, live)
    omnibus, location = ((dispersions or {}).get(test, 1.0) for test in TESTS)
    value, degrees = chi_square(reference, live)
    moved = trend(reference, live) / math.sqrt(location) if ordered else None
    return Drift(int(live.sum()), value, degrees, z_score(value / omnibus, degrees), moved, psi(reference, live))


def trend(reference: np.ndarray, live: np.ndarray) -> float:
    """Return the normal deviate of (K,) live counts lying in higher bins than (K,) reference counts, 0 where alike.

    Cochran 1954, Armitage 1955. A bin's place is the logit of its middle rank, close to the normal scores of van der
    Waerden (1952): values that left their outer bins count for more than values that changed places in the middle. Its
    square is one component of the chi-square (Best and Rayner 1987): a move of all values one way, of which the
    chi-square loses much among its many degrees of freedom, is here in one.
    """
    total, requests = float(reference.sum()), float(live.sum())
    pooled = (reference + live) / (total + requests)
    places = bin_places(len(pooled))
    place = places - pooled @ places
    variance = float(pooled @ place**2)
    if not requests or not variance:
        return 0.0
    apart = live @ place / requests - reference @ place / total
    return float(apart / math.sqrt(variance * (1 / total + 1 / requests)))


def bin_places(bins: int) -> np.ndarray:
    """Return where each of K ordered bins lies, (K,): symmetrical about 0, rising."""
    below = np.arange(bins) + 0.5
    return np.asarray(np.log(below / (bins - below)))


def chi_square(reference: np.ndarray, live: np.ndarray) -> tuple[float, int]:
    """Return the two-sample chi-square of (K,) and (K,) counts and its degrees of freedom (Pearson 1911).

    Bins empty in both samples do not count.
    """
    used = (reference + live) > 0
    m, n = reference[used].astype(float), live[used].astype(float)
    if not n.sum():
        return 0.0, max(int(used.sum()) - 1, 1)
    scale = np.sqrt(m.sum() / n.sum())
    return float((((scale * n - m / scale) ** 2) / (n + m)).sum()), max(int(used.sum()) - 1, 1)


def z_score(chi2: float, degrees: int) -> float:
    """Return the standard normal deviate of a chi-square (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return float(((chi2 / degrees) ** (1 / 3) - (1 - spread)) / spread**0.5)


def chi_square_quantile(share: float, degrees: int) -> float:
    """Return the chi-square that ``share`` of the distribution lies below (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NormalDist().inv_cdf(share) * spread**0.5) ** 3)


def psi(reference: np.ndarray, live: np.ndarray) -> float:
    """Return the population stability index of (K,) live counts, 0 where the shares agree."""
    q, p = _shares(reference), _shares(live)
    return float(((p - q) * np.log(p / q)).sum())


def _shares(counts: np.ndarray) -> np.ndarray:
    smoothed = counts + SMOOTHING
    return np.asarray(smoothed / smoothed.sum(), float)


def estimated_accuracy(accuracy: float, above: float, confidence: Bins, live: np.ndarray) -> float:
    """Estimate the accuracy of unlabelled traffic from that of the baseline: the mean of two estimates.

    ``above`` is the share of answers above the baseline's threshold (average thresholded confidence, Garg et al. 2022,
    arXiv:2201.04234); the other is the baseline's accuracy less the fall of the mean confidence (difference of
    confidences, Guillory et al. 2021, arXiv:2107.03315), from (K,) live counts in the bins of confidence. Under
    a hard shift the first falls too low and the second stays too high.
    """
    change = float(live @ np.array(confidence.means) / live.sum()) - confidence.mean
    return (above + accuracy + change) / 2


def worst_case(reference: np.ndarray, live: np.ndarray, radius: float) -> np.ndarray:
    """Return the shares (S, K), of all q with KL(reference || q) <= radius, under which (S, K) counts are likeliest.

    Lagrange's condition puts them on the line from the live shares to the reference's,
    q = (n + lam m) / (N + lam M); the search over that line ends on its outer side, so that the evidence is never
    overstated.
    """
    target = reference / reference.sum()
    total = live.sum(axis=1, keepdims=True)
    start = np.divide(live, total, out=np.broadcast_to(target, live.shape).copy(), where=total > 0)
    near, far = np.ones((len(live), 1)), np.zeros((len(live), 1))  # weight of the reference: inside, outside the ball
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        inside = _divergence(target, start + middle * (target - start)) <= radius
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    outer = np.where(_divergence(target, start) <= radius, 0.0, far)
    return np.asarray(start + outer * (target - start), float)


def _divergence(target: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.asarray((_x_log_y(target, target) - _x_log_y(target, shares)).sum(axis=1, keepdims=True))


def log_e_value(reference: np.ndarray, live: np.ndarray, radius: float) -> np.ndarray:
    """Return (S,) logarithms of e-values that (S, K) counts did not come from near the reference.

    A Dirichlet-multinomial mixture against the likeliest null (Lindon and Malek 2022, eq. 8): under any q in the
    ball the expectation is at most 1, at every sample size.
    """
    bins = live.shape[1]
    mixture = _log_gamma(live + SMOOTHING).sum(axis=1) - bins * math.lgamma(SMOOTHING)
    mixture += math.lgamma(bins * SMOOTHING) - _log_gamma(live.sum(axis=1) + bins * SMOOTHING)
    return np.asarray(mixture - _x_log_y(live, worst_case(reference, live, radius)).sum(axis=1))


def _log_gamma(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.vectorize(math.lgamma)(values), float)


def _x_log_y(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x ln y, and 0 where x is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, x * np.log(y), 0.0)


def _log_sum_exp(values: np.ndarray) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))


def log_e_detector(histories: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[float, dict[str, float]]:
    """Return the logarithm of the e-detector over all features, and of each feature's own.

    ``histories`` holds, by feature, the (K,) reference and the (T, K) counts of the last windows, oldest first.
    Sums over the window in which the change began, averages over features (Shin, Ramdas and Rinaldo 2024, SR
    e-detector): an alarm at A has an average run length of at least A windows, unless a reference is unrepresentative,
    whose probability over all features together is ``UNREPRESENTATIVE``.
    """
    if not histories:
        raise ConfigError("there is no feature with a reference to watch")
    own = {name: _log_sum(reference, windows, len(histories)) for name, (reference, windows) in histories.items()}
    return _log_sum_exp(np.array(list(own.values()))) - math.log(len(own)), own


def _log_sum(reference: np.ndarray, windows: np.ndarray, features: int) -> float:
    _check(reference, windows)
    since = np.cumsum(windows[::-1][:STARTS], axis=0)  # row s: the last s + 1 windows
    return _log_sum_exp(log_e_value(reference, since, ball_radius(reference, features)))


def ball_radius(reference: np.ndarray, features: int = 1) -> float:
    """Return the KL divergence within which the source of the reference lies, all features at once (Wilks 1938)."""
    return chi_square_quantile(1 - UNREPRESENTATIVE / features, len(reference) - 1) / (2 * float(reference.sum()))


def _check(reference: np.ndarray, live: np.ndarray) -> None:
    if len(reference) < 2 or not reference.sum():
        raise ConfigError(f"a reference needs two bins and some requests, not {len(reference)} and {reference.sum()}")
    if reference.shape[-1] != live.shape[-1]:
        raise ConfigError(f"the reference has {reference.shape[-1]} bins and the traffic {live.shape[-1]}")
