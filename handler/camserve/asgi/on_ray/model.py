"""The replicas of one model as the routes see them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from camserve.asgi.batches import BatchRules
from camserve.asgi.metrics import ModelSink
from camserve.asgi.on_ray.replica import Answered, Counted
from camserve.asgi.refusals import Refused
from camserve.serving.engines.answering import ReceivedRow
from camserve.values import Response

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_COUNTS = 0.1  # of requests under way


class RayModel:
    """Asks the replicas of one application of Ray Serve; used from one event loop."""

    def __init__(self, application: str, deployment: str, handle: Any, rules: BatchRules, sink: ModelSink) -> None:
        """Ask through ``handle``; what replicas count goes to ``sink``."""
        self._application, self._deployment = application, deployment
        self._handle = handle
        self._rules = rules
        self._sink = sink
        self._has_replica = True
        self._in_flight = 0
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether no replica runs."""
        return not self._has_replica

    def start(self) -> None:
        """Begin to look after the replicas."""
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def drain(self) -> None:
        """Return when nothing is under way any more, or none of it can be answered in time."""
        until = time.monotonic() + self._rules.longest
        while self._in_flight and time.monotonic() < until:
            await asyncio.sleep(SECONDS_BETWEEN_COUNTS)

    async def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def answer(self, row: ReceivedRow) -> Response:
        """Return the answer to a row. Refused: the queue is full, the answer took too long, its replica ended.

        No request is sent twice: one that ends a replica would end them all.
        """
        self._in_flight += 1
        try:
            status, content_type, body, headers, counted = await asyncio.wait_for(self._ask(row), self._rules.longest)
        except asyncio.TimeoutError:
            raise self._rules.no_answer from None
        except BackPressureError:
            raise self._rules.overloaded from None
        except (RayError, RayServeException) as error:
            logger.warning("camserve: a replica of %s is lost: %s", self._application, type(error).__name__)
            raise Refused("internal_error", "the process that had this request ended before it answered") from None
        finally:
            self._in_flight -= 1
        self.count(counted)
        return Response(status, content_type, body, headers)

    def count(self, counted: Counted) -> None:
        """Add what a replica counted."""
        amounts, values = counted
        for (metric, labels), amount in amounts.items():
            self._sink.count(metric, labels, amount)
        for (metric, labels), value in values.items():
            self._sink.gauge(metric, labels, value)

    async def _ask(self, row: ReceivedRow) -> Answered:
        answered: Answered = await self._handle.answer.remote((dict(row.fields), dict(row.headers), row.request_id))
        return answered

    async def _look(self) -> None:
        while True:
            self._has_replica = await asyncio.get_running_loop().run_in_executor(None, self._is_one_running)
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def _is_one_running(self) -> bool:
        try:
            deployment = serve.status().applications[self._application].deployments[self._deployment]
        except (RayError, RayServeException, KeyError, TimeoutError):
            return False
        except Exception:  # an end of the watch would pass for health
            logger.exception("camserve: the replicas of %s cannot be seen", self._application)
            return False
        return bool(deployment.replica_states.get("RUNNING", 0))
