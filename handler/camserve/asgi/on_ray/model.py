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
from camserve.asgi.on_ray.deployment import lacks_room
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
        self._has_run = False
        self._is_wanting = False  # no replica is to be expected soon
        self.waits_for_room = False  # for cores or a GPU
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
        """Return the answer to a row. Refused: there is no room, the answer took too long, its replica ended.

        No request is sent twice: one that ends a replica would end them all.
        """
        await self._check_room()
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

    async def _check_room(self) -> None:
        """Refused: no replica has run yet, or what is left of them waits for room."""
        if self._is_wanting:
            await asyncio.sleep(2 * SECONDS_BETWEEN_LOOKS)  # one may have begun since the last look
        if self._is_wanting:
            raise Refused("overloaded", "no worker of this model runs yet: try again")

    async def _ask(self, row: ReceivedRow) -> Answered:
        answered: Answered = await self._handle.answer.remote((dict(row.fields), dict(row.headers), row.request_id))
        return answered

    async def _look(self) -> None:
        while True:
            found = await asyncio.get_running_loop().run_in_executor(None, self._find_deployment)
            self._has_replica = found is not None and bool(found.replica_states.get("RUNNING", 0))
            self._has_run = self._has_run or self._has_replica
            self.waits_for_room = found is not None and lacks_room(found.message)
            self._is_wanting = (
                found is not None
                and not self._has_replica
                and found.status != "DEPLOY_FAILED"
                and (not self._has_run or self.waits_for_room)
            )
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def _find_deployment(self) -> Any:
        """Return what Serve knows of the replicas, or None."""
        try:
            return serve.status().applications[self._application].deployments[self._deployment]
        except (RayError, RayServeException, KeyError, TimeoutError):
            return None
        except Exception:  # an end of the watch would pass for health
            logger.exception("camserve: the replicas of %s cannot be seen", self._application)
            return None
