"""How the routes see replicas, where Ray is installed."""

import asyncio

import pytest

from camserve.asgi.batches import BatchRules
from camserve.asgi.metrics import Metrics, ModelSink

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
