"""Requests that wait for a model, and the rules by which they are gathered into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from camserve.asgi.gather import Gatherer
from camserve.asgi.refusals import Refused
from camserve.serving.engines.answering import RESPONSE_TIMEOUT, Answering, ReceivedRow
from camserve.values import Response

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


def may_use_gpu(config: Mapping[str, Any]) -> bool:
    """Return whether a model-config.yaml lets its workers use a GPU."""
    return config.get("deviceType") != "cpu"


class Batches:
    """The queue of one model; used from one event loop."""

    def __init__(self, answering: Answering, rules: BatchRules) -> None:
        """Answer with ``answering``, which is called from one thread alone."""
        self._rules = rules
        self._gatherer = Gatherer(answering.answer, rules.size, rules.delay)

    @property
    def is_stuck(self) -> bool:
        """Whether a batch has been under way for longer than the response timeout."""
        return self._gatherer.seconds > self._rules.timeout

    def start(self) -> None:
        """Do nothing: the first request begins."""

    async def answer(self, row: ReceivedRow) -> Response:
        """Return the answer to a row. Refused: the queue is full, or the answer took too long."""
        if self._gatherer.waiting >= self._rules.waiting:
            raise self._rules.overloaded
        try:
            return await asyncio.wait_for(self._gatherer.answer(row), self._rules.longest)
        except asyncio.TimeoutError:
            raise self._rules.no_answer from None

    async def stop(self) -> None:
        """Answer no more."""
        await self._gatherer.stop()
