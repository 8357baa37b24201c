"""Bodies on their way in."""

import asyncio

import pytest
from starlette.requests import Request

from camserve.asgi.received import BodyRoom
from camserve.asgi.refusals import Refused


def request_of(*parts, slow=None):
    """A request whose body comes in parts; ``slow`` is an event that the last one waits for."""
    left = list(parts)

    async def receive():
        if slow is not None and len(left) == 1:
            await slow.wait()
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_bodies_that_are_received_at_once_have_room_together():
    """1,024 connections that hold back their last byte could hold 6.5 MB each."""

    async def run():
        room, goes_on = BodyRoom(100), asyncio.Event()
        dawdling = asyncio.create_task(room.read(request_of(b"x" * 60, b"x", slow=goes_on), 100))
        await asyncio.sleep(0.01)
        assert await room.read(request_of(b"y" * 39), 100) == b"y" * 39
        with pytest.raises(Refused, match="too many bodies are being received"):
            await room.read(request_of(b"y" * 41), 100)
        goes_on.set()
        assert await dawdling == b"x" * 61
        assert await room.read(request_of(b"y" * 50, b"y" * 50), 100) == b"y" * 100

    asyncio.run(run())


def test_a_client_that_leaves_frees_its_room():
    async def run():
        room = BodyRoom(100)
        gone = asyncio.create_task(room.read(request_of(b"x" * 90, b"x", slow=asyncio.Event()), 100))
        await asyncio.sleep(0.01)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await room.read(request_of(b"y" * 100), 100) == b"y" * 100
        with pytest.raises(Refused, match="may have 100 bytes"):
            await room.read(request_of(b"y" * 101), 100)
        assert len(await room.read(request_of(b"y" * 100), 100)) == 100

    asyncio.run(run())
