"""Two periods of an audit log against each other."""

from datetime import datetime, timezone

import numpy as np
import pytest
from scipy import stats

from camserve.drift.periods import MAX_ROWS, compare_periods, holm, kolmogorov_smirnov, separate
from camserve.errors import ConfigError
from camserve.monitor.audit_record import AuditRecord
from camserve.monitor.signals import SIGNALS

NAMES = list(SIGNALS)
LEVEL = 0.01  # of each of the two tests
END = 1000.0  # of the clean period, seconds since 1970


def record(instant, signals, outcome="ok"):
    time = datetime.fromtimestamp(instant, timezone.utc).isoformat()
    return AuditRecord(time, "", "m", "1", "sampled", outcome, signals=signals)


def records(random, later=None, count=300, names=NAMES):
    """``count`` requests before ``END`` and as many after it, of which ``later`` may change the table of values."""
    values = random.normal(size=(2 * count, len(names)))
    if later:
        later(values[count:], names)
    instants = np.concatenate([np.linspace(0, END - 1, count), np.linspace(END, 2 * END, count)])
    return [record(instant, dict(zip(names, row.tolist()))) for instant, row in zip(instants.tolist(), values)]


def alarms(found):
    return [change.signal for change in found.changes if change.p < LEVEL], found.separation.p < LEVEL


@pytest.mark.parametrize(("sizes", "decimals"), [((100, 120), 0), ((40, 500), 0), ((300, 300), 1)])
def test_the_kolmogorov_smirnov_test_is_scipys(sizes, decimals):
    random = np.random.default_rng(0)
    for shift in (0.0, 0.1, 0.3, 0.6):
        one, other = random.normal(size=sizes[0]), random.normal(shift, size=sizes[1])
        if decimals:  # equal values within and across the samples
            one, other = one.round(decimals), other.round(decimals)
        expected = stats.ks_2samp(one, other, method="asymp")
        distance, p = kolmogorov_smirnov(one, other)
        assert distance == pytest.approx(expected.statistic, abs=1e-12)
        assert p == pytest.approx(expected.pvalue, rel=0.1, abs=0.005)


def test_values_that_never_vary_have_not_changed():
    assert kolmogorov_smirnov(np.zeros(100), np.zeros(200)) == (0.0, 1.0)
    assert kolmogorov_smirnov(np.zeros(100), np.ones(200))[1] < 1e-12


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_clean_against_clean_raises_nothing_beyond_the_level():
    """At 1 %, 40 pairs of periods hold 0.4 false alarms of each test; 3 or more have a probability of 0.008."""
    found = [alarms(compare_periods(records(np.random.default_rng(seed), count=150), END)) for seed in range(40)]
    assert sum(bool(signals) for signals, _ in found) <= 2
    assert sum(together for _, together in found) <= 2


def test_a_signal_that_moved_is_found_and_named():
    def moved(values, names):
        values[:, names.index("border")] += 0.8

    found = compare_periods(records(np.random.default_rng(1), moved), END)
    assert alarms(found) == (["border"], True)
    assert found.changes[0].medians[1] - found.changes[0].medians[0] == pytest.approx(0.8, abs=0.2)
    assert next(iter(found.separation.relies)) == "border"
    assert found.separation.relies["border"] > 0.5


def test_a_spread_that_grew_is_found_by_kolmogorov_and_smirnov_alone():
    def spread(values, names):
        values[:, names.index("area")] *= 3

    found = compare_periods(records(np.random.default_rng(2), spread), END)
    assert alarms(found) == (["area"], False)


def test_many_small_moves_are_found_together_that_no_signal_shows_alone():
    def nudged(values, _):
        values += 0.12

    found = compare_periods(records(np.random.default_rng(3), nudged), END)
    assert alarms(found) == ([], True)
    assert found.separation.auc == pytest.approx(stats.norm.cdf(0.12 * len(NAMES) ** 0.5 / 2**0.5), abs=0.05)


def test_a_small_move_against_a_signal_that_is_usually_followed_is_found_together():
    random = np.random.default_rng(4)
    margin = random.normal(size=(600, 1))
    values = np.concatenate([margin, margin + 0.1 * random.normal(size=(600, 1))], axis=1)
    values[300:, 1] += 0.1  # a tenth of its own deviation, and all of the deviation of their difference
    found = separate(["margin", "confidence"], values[:300], values[300:])
    assert found.p < LEVEL
    assert kolmogorov_smirnov(values[:300, 1], values[300:, 1])[1] > LEVEL


def test_requests_that_repeat_one_picture_tell_nothing():
    same = np.ones((400, 3))
    found = separate(["a", "b", "c"], same[:200], same[200:])
    assert found.p >= LEVEL
    assert found.auc == pytest.approx(0.5, abs=0.1)


def test_signals_that_some_requests_lack():
    """Requests without a map count with the signals they have; a signal that few have is not tested."""
    random = np.random.default_rng(5)
    rows = records(random, count=300)
    for at, row in enumerate(rows):
        if at % 2:
            del row.signals["area"]
        if at % 10:
            del row.signals["peak"]
    found = compare_periods([*rows, record(5.0, {}, "bad_image")], END)
    requests = {change.signal: change.requests for change in found.changes}
    assert requests["area"] == (150, 150)
    assert "peak" not in requests
    assert requests["border"] == found.separation.requests == (300, 300)
    assert alarms(found) == ([], False)


def test_the_classifier_draws_from_long_periods():
    random = np.random.default_rng(6)
    found = separate(["a", "b"], random.normal(size=(MAX_ROWS + 500, 2)), random.normal(size=(300, 2)))
    assert found.requests == (MAX_ROWS, 300)


def test_the_same_log_gives_the_same_comparison():
    rows = records(np.random.default_rng(7))
    assert compare_periods(rows, END) == compare_periods(rows, END)


@pytest.mark.parametrize("until", [0.0, 100.0, 5000.0])
def test_a_period_of_few_requests_is_refused(until):
    with pytest.raises(ConfigError, match="each period needs 100 sampled requests"):
        compare_periods(records(np.random.default_rng(8)), until)
