"""Rows become batches; what answers them here waits at a gate."""

import asyncio
import threading

import pytest

from camserve.asgi.gather import Gatherer


class Gate:
    """Answers with the rows themselves once it is open, and notes the batches."""

    def __init__(self):
        self.batches = []
        self.opened = threading.Event()

    def __call__(self, rows):
        self.batches.append(rows)
        assert self.opened.wait(10)
        if "bad" in rows:
            raise ValueError("a bad row")
        return rows


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("in vain")


def test_what_comes_while_a_batch_is_answered_is_one_batch():
    """However far apart: a batch that closes before its turn holds fewer rows than wait."""

    async def run():
        gate = Gate()
        gatherer = Gatherer(gate, size=4, delay=0.01)
        asked = [gatherer.answer("first")]
        await until(lambda: gate.batches)
        for number in range(3):
            asked.append(gatherer.answer(number))
            await asyncio.sleep(0.05)
        gate.opened.set()
        answers = await asyncio.gather(*asked)
        await gatherer.stop()
        return gate.batches, answers

    assert asyncio.run(run()) == ([["first"], [0, 1, 2]], ["first", 0, 1, 2])


def test_a_full_batch_waits_for_nothing_and_the_rest_comes_next():
    async def run():
        gate = Gate()
        gate.opened.set()
        gatherer = Gatherer(gate, size=2, delay=0.02)
        answers = await asyncio.gather(*(gatherer.answer(number) for number in range(5)))
        await gatherer.stop()
        return gate.batches, answers

    assert asyncio.run(run()) == ([[0, 1], [2, 3], [4]], [0, 1, 2, 3, 4])


def test_a_batch_that_raises_is_raised_for_its_rows_and_others_are_answered():
    async def run():
        gate = Gate()
        gate.opened.set()
        gatherer = Gatherer(gate, size=2, delay=0.02)
        found = await asyncio.gather(*(gatherer.answer(row) for row in ("bad", 1, 2)), return_exceptions=True)
        await gatherer.stop()
        return found

    first, second, third = asyncio.run(run())
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert third == 2


def test_a_row_whose_client_has_gone_is_not_answered():
    async def run():
        gate = Gate()
        gatherer = Gatherer(gate, size=1, delay=0)
        first = gatherer.answer("first")
        await until(lambda: gate.batches)
        gone, last = (gatherer.answer(row) for row in ("gone", "last"))
        await until(lambda: gatherer.waiting == 2)
        gone.cancel()
        await asyncio.sleep(0)
        assert gatherer.waiting == 1
        gate.opened.set()
        assert await last == "last"
        assert await first == "first"
        with pytest.raises(asyncio.CancelledError):
            await gone
        await gatherer.stop()
        return gate.batches

    assert asyncio.run(run()) == [["first"], ["last"]]


def test_rows_whose_clients_have_gone_leave_their_places_in_a_batch_to_others():
    async def run():
        gate = Gate()
        gatherer = Gatherer(gate, size=4, delay=0.01)
        first = gatherer.answer("first")
        await until(lambda: gate.batches)
        asked = [gatherer.answer(number) for number in range(16)]
        for number, one in enumerate(asked):
            if number % 4:
                one.cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(first, *asked[::4])
        await gatherer.stop()
        return gate.batches

    assert asyncio.run(run()) == [["first"], [0, 4, 8, 12]]


def test_other_work_shares_the_thread_and_seconds_are_of_the_batch_under_way():
    async def run():
        gate = Gate()
        gatherer = Gatherer(gate, size=1, delay=0)
        assert gatherer.seconds == 0
        asked = gatherer.answer(1)
        await until(lambda: gate.batches)
        assert gatherer.seconds > 0
        beside = asyncio.create_task(gatherer.beside(lambda: "done"))
        await asyncio.sleep(0.02)
        assert not beside.done()
        gate.opened.set()
        assert (await beside, await asked) == ("done", 1)
        await gatherer.stop()

    asyncio.run(run())
