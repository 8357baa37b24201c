"""A load generator that takes next to none of the cores that it shares with the server.

Requests are encoded beforehand and sent over plain sockets that stay open.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

OK = 200
PATIENCE = 120  # seconds for one answer


@dataclass(frozen=True)
class RequestAddress:
    """The address and the headers of one kind of request."""

    url: str  # with its path
    headers: Mapping[str, str]

    def encode(self, photo: bytes) -> bytes:
        """Return the bytes of one POST."""
        parts = urlsplit(self.url)
        headers = {
            "Host": parts.netloc,
            "Content-Type": "image/jpeg",
            "Content-Length": str(len(photo)),
            **self.headers,
        }
        lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + photo


@dataclass(frozen=True)
class LoadReply:
    """One answer."""

    status: int
    body: bytes


NO_REPLY = LoadReply(0, b"")  # the server closed the connection, or was silent for too long
BROKEN = (OSError, EOFError, asyncio.TimeoutError)  # of a connection; the last is an OSError from Python 3.11 on


@dataclass(frozen=True)
class Load:
    """The result of some seconds of requests."""

    latencies: tuple[float, ...]  # seconds, of good answers
    seconds: float  # from the first request to the last answer
    failed: int
    size: float  # bytes of a good body, median

    @property
    def throughput(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return the latency in milliseconds that so many percent stay below; NaN without an answer."""
        return float(np.percentile(self.latencies, percent)) * 1000 if self.latencies else float("nan")


class _Run:
    """Connections to one server, and the answers that they received."""

    def __init__(self, client: RequestAddress, photos: Sequence[bytes]) -> None:
        parts = urlsplit(client.url)
        self._address = (parts.hostname, parts.port)
        self._requests = [client.encode(photo) for photo in photos]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._sizes: list[int] = []
        self._latencies: list[float] = []
        self._failed = 0

    async def send(self, number: int, since: float) -> None:
        """Send one request on an idle connection, or a new one; ``since`` is when the request was due."""
        request = self._requests[number % len(self._requests)]
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        writer.write(request)
        try:
            reply = await asyncio.wait_for(_read(reader), PATIENCE)
        except BROKEN:
            reply = NO_REPLY
        if reply.status == OK:
            self._latencies.append(time.perf_counter() - since)
            self._sizes.append(len(reply.body))
            self._idle.append((reader, writer))
        else:  # TorchServe closes the connection
            self._failed += 1
            writer.close()

    def finish(self, start: float) -> Load:
        """Close the connections and return the result."""
        seconds = time.perf_counter() - start
        for _, writer in self._idle:
            writer.close()
        size = float(np.median(self._sizes)) if self._sizes else 0.0
        return Load(tuple(self._latencies), seconds, self._failed, size)


async def _read(reader: asyncio.StreamReader) -> LoadReply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    return LoadReply(int(head[0].split()[1]), await reader.readexactly(int(fields["content-length"])))


def run_closed_loop(client: RequestAddress, photos: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Keep ``connections`` requests under way for so many seconds, then wait for the last answers.

    All the work is divided by all the time, so that whole batches are never cut.
    """
    return asyncio.run(_run_closed_loop(client, photos, connections, seconds))


async def _run_closed_loop(client: RequestAddress, photos: Sequence[bytes], connections: int, seconds: float) -> Load:
    run, start = _Run(client, photos), time.perf_counter()

    async def keep_sending(number: int) -> None:
        while (now := time.perf_counter()) < start + seconds:
            await run.send(number, now)
            number += connections

    await asyncio.gather(*(keep_sending(number) for number in range(connections)))
    return run.finish(start)


def run_fixed_rate(client: RequestAddress, photos: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send ``rate`` requests a second at random instants, whether or not earlier ones are answered.

    Latency counts from when a request was due, so that a late generator hides nothing.
    """
    return asyncio.run(_run_fixed_rate(client, photos, draw_arrivals(rate, seconds)))


def draw_arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Return the instants of a Poisson process, the same for a seed, within so many seconds."""
    source = random.Random(seed)
    instants = [source.expovariate(rate)]
    while instants[-1] < seconds:
        instants.append(instants[-1] + source.expovariate(rate))
    return instants[:-1]


async def _run_fixed_rate(client: RequestAddress, photos: Sequence[bytes], instants: Sequence[float]) -> Load:
    run, start, under_way = _Run(client, photos), time.perf_counter(), []
    for number, instant in enumerate(instants):
        await asyncio.sleep(max(0.0, start + instant - time.perf_counter()))
        under_way.append(asyncio.create_task(run.send(number, start + instant)))
    await asyncio.gather(*under_way)
    return run.finish(start)


def send_once(client: RequestAddress, photo: bytes) -> LoadReply:
    """Send one request on a connection of its own."""
    return asyncio.run(_send_once(client, photo))


async def _send_once(client: RequestAddress, photo: bytes) -> LoadReply:
    parts = urlsplit(client.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(client.encode(photo))
    reply = await asyncio.wait_for(_read(reader), PATIENCE)
    writer.close()
    return reply
