"""The simulation against what queueing theory knows, and its own laws."""

import random

import pytest

from queueing import Batch, Scenario, measured_service, simulate

TENTH = measured_service([Batch(0, 1, 0.1)])


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_replica_without_batches_is_the_queue_m_d_1(load):
    """Pollaczek and Khinchine: a mean wait of load / (2 (1 - load)) services."""
    scenario = Scenario(rate=10 * load, seconds=8_000, replicas=1, batch_size=1, delay=0, waiting=10**6)
    found = simulate(scenario, TENTH)
    mean = sum(found.latencies) / len(found.latencies)
    assert mean == pytest.approx(0.1 * (1 + load / (2 * (1 - load))), rel=0.05)


def test_a_lone_request_waits_for_others_and_then_for_its_batch():
    found = simulate(Scenario(rate=0.01, seconds=10_000, delay=0.05), TENTH)
    assert found.percentile(50) == pytest.approx(0.15)
    assert set(found.batches) == {1}


def test_every_request_is_answered_refused_or_lost():
    scenario = Scenario(rate=60, seconds=200, replicas=2, batch_size=4, failures=0.02, start=5)
    found = simulate(scenario, lambda size, source, now: 0.02 + 0.05 * size)
    calm = simulate(Scenario(rate=60, seconds=200, waiting=10**6), lambda size, source, now: 1e-6)
    assert found.refused > 0
    assert 0 < found.lost <= 8 * 2 * 200 * 0.02 * 4
    assert len(found.latencies) + found.refused + found.lost == pytest.approx(60 * 200, rel=0.05)
    assert len(calm.latencies) == pytest.approx(60 * 200, rel=0.05)
    assert calm.refused == calm.lost == 0


def test_replicas_join_until_their_work_is_the_target():
    scenario = Scenario(rate=40, seconds=600, replicas=1, batch_size=1, delay=0, most=20, target=0.5)
    found = simulate(scenario, TENTH)
    assert 7 <= found.replicas <= 10  # 4 seconds of work a second
    assert found.percentile(50) < 0.5


def test_a_size_that_was_not_measured_is_made_from_the_nearest():
    service = measured_service([Batch(0, 1, 1.0), Batch(0, 4, 2.0)])
    assert [service(size, random.Random(0), 0.0) for size in (1, 4, 8)] == [1.0, 2.0, 4.0]


def test_a_slow_minute_is_slow_in_the_simulation_too():
    service = measured_service([Batch(second, 1, 1.0 if second < 60 else 5.0) for second in range(120)])
    assert {service(1, random.Random(seed), 30.0) for seed in range(20)} == {1.0}
    assert {service(1, random.Random(seed), 90.0) for seed in range(20)} == {5.0}
    assert service(1, random.Random(0), 1000.0) == 5.0


def test_given_instants_are_those_at_which_requests_arrive():
    """The third of three meets a replica that works: with one replica and no batches it waits for both before it."""
    scenario = Scenario(rate=0, seconds=0, replicas=1, batch_size=1, delay=0)
    found = simulate(scenario, TENTH, instants=[1.0, 1.05, 1.06])
    assert found.latencies == pytest.approx([0.1, 0.15, 0.24])
