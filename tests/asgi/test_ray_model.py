"""How the routes see replicas, where Ray is installed."""

import asyncio
from types import SimpleNamespace

import pytest

from camserve.asgi.batches import BatchRules
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.asgi.refusals import Refused
from camserve.serving.engines.answering import ReceivedRow

pytest.importorskip("ray", reason="pip install 'camserve[ray]'")


@pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
def test_an_error_of_any_kind_while_replicas_are_looked_at_is_no_health(monkeypatch):
    from ray import serve

    from camserve.asgi.on_ray.model import RayModel

    def fail():
        raise OSError("no more files")

    async def look():
        model = RayModel("pets@1", "replica", None, BatchRules(), ModelSink(Metrics(), "pets", "1.0"))
        model.start()
        for _ in range(100):
            if model.is_stuck:
                break
            await asyncio.sleep(0.05)
        stuck = model.is_stuck
        await model.stop()
        return stuck

    monkeypatch.setattr(serve, "status", fail)
    assert asyncio.run(look())


class Replicas:
    """Stands where Serve's status and a handle are, and loses each request that reaches it."""

    def __init__(self, looks):
        self.looks = list(looks)
        self.answer = self

    def status(self):
        status, running, message = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        found = SimpleNamespace(status=status, replica_states={"RUNNING": running}, message=message)
        return SimpleNamespace(applications={"pets@1": SimpleNamespace(deployments={"replica": found})})

    async def remote(self, row):
        from ray.exceptions import RayError

        raise RayError


RUNS, WAITS = ("HEALTHY", 1, ""), ("UPDATING", 0, "")
FULL = ("UPDATING", 0, "has 1 replicas that have taken more than 30s to be scheduled")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("looks", "later", "code"),
    [
        ([WAITS], WAITS, "overloaded"),
        ([FULL], FULL, "overloaded"),
        ([RUNS, FULL], FULL, "overloaded"),
        ([RUNS, WAITS], WAITS, "internal_error"),  # another begins in seconds
        ([("DEPLOY_FAILED", 0, "")], ("DEPLOY_FAILED", 0, ""), "internal_error"),
        ([WAITS], RUNS, "internal_error"),  # it began after the last look
    ],
)
def test_a_request_waits_for_no_replica_that_has_no_room(monkeypatch, looks, later, code):
    """It was held for four minutes."""
    from ray import serve

    from camserve.asgi.on_ray import model as module

    async def ask():
        model = module.RayModel("pets@1", "replica", replicas, BatchRules(), ModelSink(Metrics(), "pets", "1.0"))
        model.start()
        while len(replicas.looks) > 1 or not model.is_stuck:
            await asyncio.sleep(0.01)
        asked = asyncio.ensure_future(model.answer(ReceivedRow({}, {}, "1")))
        await asyncio.sleep(0)
        replicas.looks = [later]
        with pytest.raises(Refused) as refused:
            await asyncio.wait_for(asked, 10)
        await model.stop()
        return refused.value.code

    replicas = Replicas(looks)
    monkeypatch.setattr(serve, "status", replicas.status)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.3)
    assert asyncio.run(ask()) == code
