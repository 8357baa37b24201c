"""The queue of one model, in front of a real pipeline."""

import asyncio
import threading

import pytest

from camserve.asgi.batches import Batches, BatchRules
from camserve.asgi.refusals import Refused
from camserve.serving.engines.answering import Answering, ReceivedRow
from camserve.values import Response
from colour_pipeline import build


@pytest.fixture(scope="module")
def answering():
    return Answering(build())


@pytest.fixture
def row(encoded):
    return ReceivedRow({"body": encoded(16, 16, color=(200, 20, 20))}, {"explain": "True"}, "one")


class Counting(Answering):
    """Notes the size of each batch; waits at a gate."""

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.sizes = []
        self.gate = threading.Event()

    def answer(self, rows):
        self.gate.wait(10)
        self.sizes.append(len(rows))
        return super().answer(rows)


def gathered(batches, rows, before=None):
    """Ask about all rows at once; return answers and refusals."""

    async def run():
        batches.start()
        asked = [asyncio.create_task(batches.answer(row)) for row in rows]
        await asyncio.sleep(0.05)
        if before:
            before()
        try:
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await batches.stop()

    return asyncio.run(run())


def test_rows_that_wait_together_are_answered_together(answering, row):
    counting = Counting(answering.pipeline)
    counting.gate.set()
    found = gathered(Batches(counting, BatchRules(size=4, delay=0.5)), [row] * 10)
    assert [answer.status for answer in found] == [200] * 10
    assert counting.sizes == [4, 4, 2]


def test_a_full_queue_refuses_at_once(answering, row):
    counting = Counting(answering.pipeline)
    found = gathered(Batches(counting, BatchRules(size=1, delay=0, waiting=3)), [row] * 8, counting.gate.set)
    codes = [one.code for one in found if isinstance(one, Refused)]
    assert set(codes) == {"overloaded"}
    assert 4 <= len(codes) <= 5  # one may have left the queue before the others came
    assert {one.status for one in found if isinstance(one, Response)} == {200}


def test_a_batch_that_takes_too_long_is_seen_and_no_request_waits_for_ever(answering, row):
    counting = Counting(answering.pipeline)
    batches = Batches(counting, BatchRules(size=1, delay=0, timeout=-4.9))  # a request waits 2 x -4.9 + 5 s at most
    stuck = []
    (refused,) = gathered(batches, [row], lambda: stuck.append(batches.is_stuck))
    assert isinstance(refused, Refused)
    assert refused.code == "no_answer"
    assert stuck == [True]
    counting.gate.set()


def test_a_row_that_fails_fails_alone(answering, row):
    wrong = ReceivedRow({"body": b"nothing"}, {}, "two")
    found = gathered(Batches(answering, BatchRules(size=3, delay=0.5)), [row, wrong, row])
    assert [answer.status for answer in found] == [200, 415, 200]
