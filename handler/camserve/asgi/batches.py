"""Requests that wait for a model, answered in batches by a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from camserve.asgi.refusals import Refused
from camserve.serving.engines.answering import RESPONSE_TIMEOUT, Answering, ReceivedRow
from camserve.values import Response

logger = logging.getLogger(__name__)

DELAY_MS = 100  # maxBatchDelay, TorchServe's own where an archive names none


@dataclass(frozen=True)
class BatchRules:
    """How requests are gathered: the keys batchSize, maxBatchDelay and responseTimeout of an archive."""

    size: int = 1
    delay: float = 0.1  # seconds that the first of a batch waits for others
    waiting: int = 64  # requests, as the shipped config.properties has it; more are refused at once
    timeout: float = 120.0  # seconds after which a batch counts as lost

    @property
    def longest(self) -> float:
        """Seconds that a request waits for its answer."""
        return 2 * self.timeout + 5

    @property
    def overloaded(self) -> Refused:
        """The refusal of a request for which there is no place."""
        return Refused("overloaded", f"{self.waiting} requests are waiting: try again")

    @property
    def no_answer(self) -> Refused:
        """The refusal of a request that waited in vain."""
        return Refused("no_answer", f"the model has not answered within {self.longest:.0f} s: try again")


def read_rules(config: Mapping[str, Any]) -> BatchRules:
    """Return the rules of a model-config.yaml."""
    return BatchRules(
        size=int(config.get("batchSize", 1)),
        delay=float(config.get("maxBatchDelay", DELAY_MS)) / 1000,
        timeout=float(config.get("responseTimeout", RESPONSE_TIMEOUT)),
    )


@dataclass
class _Waiting:
    row: ReceivedRow
    answered: asyncio.Future[Response] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batches:
    """The queue of one model; used from one event loop."""

    def __init__(self, answering: Answering, rules: BatchRules) -> None:
        """Answer with ``answering``, which is called from one thread alone."""
        self._answering = answering
        self._rules = rules
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(rules.waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="camserve-batches")
        self._began: float | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether a batch has been under way for longer than the response timeout."""
        return self._began is not None and time.monotonic() - self._began > self._rules.timeout

    async def answer(self, row: ReceivedRow) -> Response:
        """Return the answer to a row. Refused: the queue is full, or the answer took too long."""
        waiting = _Waiting(row)
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise self._rules.overloaded from None
        try:
            return await asyncio.wait_for(waiting.answered, self._rules.longest)
        except asyncio.TimeoutError:
            raise self._rules.no_answer from None

    def start(self) -> None:
        """Begin to answer."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Answer no more."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            batch = await self._gather()
            self._began = time.monotonic()
            try:
                rows = [waiting.row for waiting in batch]
                responses = await asyncio.get_running_loop().run_in_executor(self._thread, self._answering.answer, rows)
            except Exception as error:  # Answering never raises: what is left is a fault of this process
                logger.exception("camserve: a batch failed")
                for waiting in batch:
                    _settle(waiting, error)
            else:
                for waiting, response in zip(batch, responses):
                    _settle(waiting, response)
            finally:
                self._began = None

    async def _gather(self) -> list[_Waiting]:
        """Return the next batch: what waits, and what comes while its first request waits for others."""
        batch = [await self._queue.get()]
        until = time.monotonic() + self._rules.delay
        while len(batch) < self._rules.size:
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), max(0.0, until - time.monotonic())))
            except asyncio.TimeoutError:
                break
        return batch


def _settle(waiting: _Waiting, outcome: Response | Exception) -> None:
    if waiting.answered.done():  # whoever asked has gone
        return
    if isinstance(outcome, Response):
        waiting.answered.set_result(outcome)
    else:
        waiting.answered.set_exception(outcome)
