"""Drift tests: numbers by hand, brute force, and false alarms under a simulated null."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from camserve.build.baseline.measure import quantile_bins
from camserve.drift.statistics import (
    ALARM_WINDOWS,
    Z_ALARM,
    ball_radius,
    chi_square,
    chi_square_quantile,
    compare_counts,
    estimated_accuracy,
    log_e_detector,
    log_e_value,
    psi,
    trend,
    worst_case,
    z_score,
)
from camserve.errors import ConfigError

DECILES = np.full(10, 200)  # a reference of 2,000 requests in ten equal bins


def test_chi_square_by_hand():
    # 10 + 30 against 20 + 20: pooled shares .375 and .625, expected 15 and 25 in each sample.
    value, degrees = chi_square(np.array([10, 30]), np.array([20, 20]))
    assert value == pytest.approx(25 / 15 + 25 / 25 + 25 / 15 + 25 / 25)
    assert degrees == 1


def test_chi_square_is_that_of_the_contingency_table():
    reference, live = np.array([50, 3, 0, 80, 7]), np.array([20, 9, 0, 11, 4])
    table = np.stack([reference, live])[:, [0, 1, 3, 4]]  # a bin that both leave empty does not count
    expected = stats.chi2_contingency(table, correction=False)
    assert chi_square(reference, live) == (pytest.approx(expected.statistic), expected.dof)


@pytest.mark.parametrize("degrees", [3, 9, 19])
@pytest.mark.parametrize("z", [0.0, 2.0, 4.5])
def test_z_is_the_normal_deviate_of_the_chi_square(degrees, z):
    exact = stats.chi2.isf(stats.norm.sf(z), degrees)
    assert z_score(exact, degrees) == pytest.approx(z, abs=0.16)


@pytest.mark.parametrize("degrees", [1, 4, 9, 19])
@pytest.mark.parametrize("share", [0.99, 0.9995])
def test_the_quantile_is_that_of_the_chi_square(degrees, share):
    assert chi_square_quantile(share, degrees) == pytest.approx(stats.chi2.ppf(share, degrees), rel=0.05)


def test_psi_by_hand():
    # With half a count added to each bin: .25/.75 against .75/.25, twice (.5 x ln 3).
    assert psi(np.array([1, 4]), np.array([4, 1])) == pytest.approx(2 * 0.5 * math.log(3))


def test_equal_shares_are_no_drift():
    drift = compare_counts(DECILES, DECILES * 3)
    assert drift.chi2 == pytest.approx(0)
    assert drift.psi == pytest.approx(0, abs=1e-6)
    assert drift.omnibus < -3
    assert drift.location == pytest.approx(0)
    assert not drift.alarms


def test_the_trend_by_hand():
    # 10 + 30 against 20 + 20: .75 and .5 in the higher bin, pooled variance 50/80 x 30/80, and 1/40 + 1/40.
    found = trend(np.array([20, 20]), np.array([10, 30]))
    assert found == pytest.approx(0.25 / math.sqrt(50 / 80 * 30 / 80 * 2 / 40))
    assert found**2 == pytest.approx(chi_square(np.array([20, 20]), np.array([10, 30]))[0])  # two bins have no more


def test_the_trend_is_cochrans_and_armitages():
    reference, live = np.array([50, 3, 0, 80, 7]), np.array([20, 9, 0, 11, 4])
    place = np.repeat(np.tile(np.log([1 / 9, 3 / 7, 1, 7 / 3, 9]), 2), [*reference, *live])
    sample = np.repeat([0, 1], [reference.sum(), live.sum()])
    r = stats.pearsonr(place, sample).statistic
    assert trend(reference, live) == pytest.approx(r * math.sqrt(len(place)))
    assert trend(reference[::-1], live[::-1]) == pytest.approx(-trend(reference, live))


def test_the_trend_is_a_part_of_the_chi_square():
    random = np.random.default_rng(0)
    for _ in range(50):
        reference, live = random.integers(0, 60, 10), random.integers(0, 20, 10)
        assert trend(reference, live) ** 2 <= chi_square(reference, live)[0] + 1e-9


@pytest.mark.parametrize("live", [np.zeros(3, int), np.array([0, 9, 0])])
def test_a_window_without_requests_and_a_single_full_bin_have_no_trend(live):
    assert trend(np.array([0, 20, 0]), live) == 0


def test_a_move_of_all_values_is_seen_sooner_than_by_the_chi_square_alone():
    live = np.arange(10) * 2 + 3
    drift = compare_counts(DECILES, live)
    assert drift.omnibus < 3 < Z_ALARM < drift.z
    assert (drift.moved, compare_counts(DECILES, live[::-1]).moved) == ("higher", "lower")
    assert compare_counts(DECILES, live, ordered=False).z == drift.omnibus
    assert compare_counts(DECILES, np.array([0] * 8 + [60, 60])).moved == "higher"  # where the chi-square is louder
    assert compare_counts(DECILES, np.array([30, 0] * 5)).moved == ""


def test_p_counts_every_test_and_both_directions():
    live = np.arange(10) * 2 + 3
    ordered, classes = compare_counts(DECILES, live), compare_counts(DECILES, live, ordered=False)
    assert ordered.p == pytest.approx(2 * stats.norm.sf(ordered.location) / 0.9)
    scattered = compare_counts(DECILES, np.array([30, 0] * 5))
    assert scattered.p == pytest.approx(stats.norm.sf(scattered.omnibus) / 0.1)
    assert classes.p == pytest.approx(stats.norm.sf(classes.omnibus))
    assert compare_counts(DECILES, DECILES).p == 1


def test_a_dispersion_divides_the_square_of_its_test():
    live = np.array([160, 40] + [100] * 8)
    found = compare_counts(DECILES, live, dispersions={"omnibus": 4.0, "location": 9.0})
    assert found.omnibus == pytest.approx(z_score(chi_square(DECILES, live)[0] / 4, 9))
    assert found.location == pytest.approx(trend(DECILES, live) / 3)


def test_an_alarm_needs_evidence_size_and_requests():
    half = np.array([20] * 5 + [0] * 5)
    assert compare_counts(DECILES, half).location < -Z_ALARM
    assert compare_counts(DECILES, half).alarms
    assert not compare_counts(DECILES, half // 2).alarms  # 50 requests
    slight = np.array([11_000, 9_000] * 5)
    drift = compare_counts(DECILES * 100, slight)
    assert drift.z > 10
    assert not drift.alarms  # PSI .01: certain, and too small to matter


def test_clean_windows_alarm_as_rarely_as_the_tests_say():
    random = np.random.default_rng(1)
    source = np.full(10, 0.1)
    drifts = [compare_counts(random.multinomial(1000, source), random.multinomial(200, source)) for _ in range(4000)]
    limit = stats.norm.isf(0.01)
    alarms = {
        "omnibus": [drift.omnibus > limit for drift in drifts],
        "location": [drift.location > limit for drift in drifts],
        "both": [drift.p < 0.01 for drift in drifts],
    }
    for test, raised in alarms.items():
        assert 16 <= sum(raised) <= 66, test  # 40 expected, of both together somewhat fewer; 6.3 a standard deviation


def test_the_estimate_is_the_mean_of_share_above_and_difference_of_confidences():
    confidence = quantile_bins(np.array([0.2, 0.4, 0.8, 1.0]), 2)  # means .3 and .9, mean .6
    # Three of four live answers in the lower bin: mean confidence .45, so .8 - .15; and .5 are above the threshold.
    assert estimated_accuracy(0.8, 0.5, confidence, np.array([3, 1])) == pytest.approx((0.5 + 0.65) / 2)
    assert estimated_accuracy(0.8, 0.8, confidence, np.array([1, 1])) == pytest.approx(0.8)


def brute_force(reference, live, radius):
    target = reference / reference.sum()

    def shares(free):
        weights = np.exp(np.append(free, 0.0))
        return weights / weights.sum()

    outside = {
        "type": "ineq",
        "fun": lambda free: radius - float((target * np.log(target / shares(free))).sum()),
    }
    best = -math.inf
    for weight in (0.0, 0.1, 0.3):  # SLSQP stops early from some starts
        start = np.log(target + weight * (live / live.sum() - target))
        found = minimize(
            lambda free: -float((live * np.log(shares(free))).sum()),
            start[:-1] - start[-1],
            constraints=[outside],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        if outside["fun"](found.x) > -1e-9:
            best = max(best, -found.fun)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_likeliest_null_is_that_of_a_brute_force_search(seed):
    random = np.random.default_rng(seed)
    bins = int(random.integers(2, 6))
    reference = random.integers(5, 60, bins)
    live = random.integers(1, 200, bins)
    radius = ball_radius(reference)
    (shares,) = worst_case(reference, live[None], radius)
    assert shares.sum() == pytest.approx(1)
    assert (live * np.log(shares)).sum() == pytest.approx(brute_force(reference, live, radius), rel=1e-6)


def test_traffic_inside_the_ball_is_its_own_likeliest_null():
    reference = np.array([100, 100])
    (shares,) = worst_case(reference, np.array([[52, 48]]), ball_radius(reference))
    assert shares == pytest.approx([0.52, 0.48])


def test_an_e_value_by_hand():
    # Two bins, one request: the mixture says 1/2; the null may say at most q = the ball's edge.
    reference = np.array([50, 50])
    radius = 0.02
    edge = worst_case(reference, np.array([[1, 0]]), radius)[0, 0]
    assert -0.5 * math.log(4 * edge * (1 - edge)) == pytest.approx(radius)
    assert math.exp(log_e_value(reference, np.array([[1, 0]]), radius)[0]) == pytest.approx(0.5 / edge)
    assert log_e_value(reference, np.zeros((1, 2)), radius)[0] == pytest.approx(0)


def test_the_expectation_of_an_e_value_is_at_most_one_under_every_null_in_the_ball():
    reference, requests = np.array([30, 10]), 12
    counts = np.array([[k, requests - k] for k in range(requests + 1)])
    radius = ball_radius(reference)
    values = np.exp(log_e_value(reference, counts, radius))
    inside = [p for p in np.linspace(0.01, 0.99, 99) if stats.entropy([0.75, 0.25], [p, 1 - p]) <= radius]
    assert len(inside) > 10
    for p in inside:
        assert (stats.binom.pmf(counts[:, 0], requests, p) * values).sum() <= 1 + 1e-9


def test_one_feature_by_itself_is_the_sum_over_starts():
    windows = np.array([[3, 1], [0, 4]])
    reference = np.array([40, 40])
    radius = ball_radius(reference)
    both = np.exp(log_e_value(reference, np.array([[0, 4], [3, 5]]), radius)).sum()
    total, own = log_e_detector({"only": (reference, windows)})
    assert math.exp(total) == pytest.approx(both)
    assert own == {"only": pytest.approx(math.log(both))}


def simulate(shares, hours, requests, seed, features=4):
    random = np.random.default_rng(seed)
    source = np.full(10, 0.1)
    references = [random.multinomial(2000, source) for _ in range(features)]
    windows = [random.multinomial(requests, source, hours) for _ in range(features)]
    windows[0] = random.multinomial(requests, shares, hours)
    return references, windows


def peak(references, windows, hours):
    """Return the highest e-detector of every hour, and the first hour of an alarm."""
    highest = -math.inf
    for hour in range(1, hours + 1):
        history = {str(at): (m, n[:hour]) for at, (m, n) in enumerate(zip(references, windows))}
        value, own = log_e_detector(history)
        highest = max(highest, value)
        if value > math.log(ALARM_WINDOWS):
            return highest, hour, max(own, key=own.get)
    return highest, None, None


def test_ten_clean_days_raise_no_alarm():
    references, windows = simulate(np.full(10, 0.1), 240, 40, seed=2, features=2)
    highest, hour, _ = peak(references, windows, 240)
    assert hour is None
    assert highest < math.log(ALARM_WINDOWS) / 2


def test_a_planted_shift_is_found_within_its_published_delay_and_named():
    shifted = np.array([0.16, 0.14, 0.12, 0.11, 0.1, 0.1, 0.09, 0.08, 0.06, 0.04])
    assert 0.12 < ((shifted - 0.1) * np.log(shifted / 0.1)).sum() < 0.2
    delays = []
    for seed in range(3):
        _, hour, name = peak(*simulate(shifted, 80, 25, seed), 80)
        assert name == "0"
        delays.append(hour * 25)
    assert max(delays) <= 2000
    assert np.median(delays) >= 200


def test_a_shift_that_a_small_reference_cannot_exclude_is_not_claimed():
    faint = np.array([0.12, 0.12, 0.11, 0.1, 0.1, 0.1, 0.1, 0.09, 0.08, 0.08])
    references, windows = simulate(faint, 100, 25, seed=3)
    small = [reference // 8 for reference in references]
    assert peak(small, windows, 100)[1] is None


@pytest.mark.parametrize(
    ("reference", "windows", "message"),
    [
        ([5], [[1]], "two bins"),
        ([0, 0], [[1, 2]], "some requests"),
        ([5, 5], [[1, 2, 3]], "2 bins and the traffic 3"),
    ],
)
def test_counts_that_do_not_fit_are_refused(reference, windows, message):
    with pytest.raises(ConfigError, match=message):
        log_e_detector({"f": (np.array(reference), np.array(windows))})


def test_nothing_to_watch_is_an_error():
    with pytest.raises(ConfigError, match="no feature"):
        log_e_detector({})
