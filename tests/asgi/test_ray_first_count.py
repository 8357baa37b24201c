"""How the routes of a cluster wait for the first replica of a model, where Ray is installed."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from camserve.asgi.on_ray.deployment import Replicas

pytest.importorskip("ray", reason="pip install 'camserve[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn

NOTHING = ({}, {})


class Handle:
    """Counts at the end of some trials: each is an error, or the seconds that it takes."""

    def __init__(self, *trials):
        self._trials = list(trials)
        self.counted = self

    async def remote(self):
        trial = self._trials.pop(0)
        if isinstance(trial, Exception):
            raise trial
        await asyncio.sleep(trial)
        return NOTHING


def lines_of(monkeypatch, caplog, waits_for_room, *trials):
    """Return what is logged until a model is counted."""
    import ray

    from camserve.asgi.on_ray import application

    async def count():
        await asyncio.wait_for(application.count_first("pets", replicas, Handle(*trials), model), 20)

    counted = []
    model = SimpleNamespace(waits_for_room=waits_for_room, count=counted.append)
    replicas = Replicas(1, {"num_cpus": 2.0, "num_gpus": 0.0})
    monkeypatch.setattr(application, "SECONDS_BETWEEN_LINES", 0.05)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    with caplog.at_level(logging.WARNING, "camserve"):
        asyncio.run(count())
    assert counted == [NOTHING]
    return {record.getMessage() for record in caplog.records}


def test_advice_about_room_is_given_where_room_is_wanting(monkeypatch, caplog):
    assert lines_of(monkeypatch, caplog, True, 0.5) == {
        "camserve: no worker of pets runs yet: 1 x 2 CPU is asked for, and Ray has 1 CPU: add machines, or set "
        "num_cpus in args"
    }


def test_no_advice_is_given_where_a_replica_loads(monkeypatch, caplog):
    assert lines_of(monkeypatch, caplog, False, 0.5) == {"camserve: no worker of pets runs yet"}


def test_a_replica_that_ends_before_it_is_counted_is_asked_again(monkeypatch, caplog):
    from ray.exceptions import RayError

    said = lines_of(monkeypatch, caplog, False, RayError("the actor died"), 0)
    assert said == {"camserve: no worker of pets runs: the actor died"}
