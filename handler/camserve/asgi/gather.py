"""Rows that come one by one, answered in batches by a thread of its own.

Ray gets this module by value: nothing of camserve may be imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Row, Answer]):
    row: Row
    answered: asyncio.Future[Answer]


class Gatherer(Generic[Row, Answer]):
    """Gathers the next batch once the last is answered, as TorchServe does; used from one event loop."""

    def __init__(self, answer: Callable[[list[Row]], Sequence[Answer]], size: int, delay: float) -> None:
        """Call ``answer`` with at most ``size`` rows, the first of which waits ``delay`` seconds for others."""
        self._answer = answer
        self._size, self._delay = size, delay
        self._queue: deque[_Waiting[Row, Answer]] = deque()
        self._came: asyncio.Event  # of the loop in which rows come
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="camserve-batches")
        self._began: float | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many rows are in no batch yet."""
        return len(self._queue)

    @property
    def seconds(self) -> float:
        """For how long the batch under way has been answered; 0 where there is none."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def answer(self, row: Row) -> asyncio.Future[Answer]:
        """Take a row in, and return what will be its answer, or what ``answer`` raised; cancelled, it leaves."""
        waiting: _Waiting[Row, Answer] = _Waiting(row, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        waiting.answered.add_done_callback(lambda _: self._drop(waiting))
        if self._running is None or self._running.done():
            self._came = asyncio.Event()
            self._running = asyncio.get_running_loop().create_task(self._run())
        self._came.set()
        return waiting.answered

    async def beside(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns in the thread that answers."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def stop(self) -> None:
        """Answer no more."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while self._queue:
            await self._wait_for_others()
            batch = [self._queue.popleft() for _ in range(min(self._size, len(self._queue)))]
            if batch:
                await self._answer_batch(batch)

    def _drop(self, waiting: _Waiting[Row, Answer]) -> None:
        """Forget a row whose client has gone before its batch: it would hold its bytes and fill a batch."""
        if waiting.answered.cancelled() and waiting in self._queue:
            self._queue.remove(waiting)

    async def _wait_for_others(self) -> None:
        until = time.monotonic() + self._delay
        while len(self._queue) < self._size and (left := until - time.monotonic()) > 0:
            self._came.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._came.wait(), left)

    async def _answer_batch(self, batch: Sequence[_Waiting[Row, Answer]]) -> None:
        rows = [waiting.row for waiting in batch]
        self._began = time.monotonic()
        try:
            answers = await self.beside(lambda: self._answer(rows))
        except Exception as error:
            for waiting in batch:
                if not waiting.answered.done():
                    waiting.answered.set_exception(error)
        else:
            for waiting, answer in zip(batch, answers):
                if not waiting.answered.done():
                    waiting.answered.set_result(answer)
        finally:
            self._began = None
