"""Hostile clients beside a good one, against a real server: who is refused, and what the good one notices."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from stress_attacks import ATTACKS, HostileRequest
from stress_scenarios import BATCH, StressLoad

SLOWEST = 3.0  # seconds, of a good request beside any attack
ATTACKERS = 8
REQUESTS = 60  # of an attack, and at least each of its files once
PATIENCE = 120  # seconds for one answer
MEGABYTE = 1_000_000


@dataclass
class GoodClient:
    """Sends one explained photo after the other, and compares each answer with the first."""

    traffic: StressLoad
    seconds: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def send(self) -> None:
        """Send one request; note its time, or what came in the place of its answer."""
        start = time.monotonic()
        side = self.traffic.server.inference
        try:
            answer = httpx.post(
                f"{side.url}/predictions/{self.traffic.model}",
                headers=side.headers,
                files={"data": self.traffic.photo},
                timeout=PATIENCE,
            )
        except httpx.HTTPError as error:
            self.lost[type(error).__name__] += 1
            return
        self.seconds.append(time.monotonic() - start)
        if answer.status_code != 200:
            self.lost[str(answer.status_code)] += 1
        elif not self._is_right(answer.json()):
            self.lost["wrong"] += 1

    def _is_right(self, answer: Any) -> bool:
        best, explanation = answer["predictions"][0], answer["explanations"][0]
        is_same = best["label"] == "espresso" and abs(best["probability"] - 0.951) < 0.005
        return bool(is_same and explanation["grid"])

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send from a thread of its own for the block."""
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                self.send()

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@dataclass(frozen=True)
class AttackRow:
    """One line of the table of attacks."""

    attack: str
    answers: Counter[int]
    good: GoodClient
    peak: int  # bytes that the worker grew by at most
    lives: bool

    @property
    def holds(self) -> bool:
        """Whether the worker lived, and the good client lost nothing and never waited long."""
        harmless = not {500, 507, 0} & set(self.answers)
        return self.lives and harmless and not self.good.lost and max(self.good.seconds) <= SLOWEST

    def columns(self) -> list[str]:
        """Return the texts of the table's columns."""
        answers = ", ".join(f"{count} x {status or 'none'}" for status, count in sorted(self.answers.items()))
        lost = ", ".join(f"{count} x {what}" for what, count in self.good.lost.items()) or "0"
        times = f"{statistics.median(self.good.seconds):.2f} / {max(self.good.seconds):.2f}"
        grown, holds = f"{self.peak / MEGABYTE:.0f} MB", "yes" if self.holds else "**no**"
        return [self.attack, answers, str(len(self.good.seconds)), lost, times, grown, holds]


COLUMNS = ("attack", "answers", "good requests", "lost", "seconds: median / slowest", "worker grew by", "holds")


def run_attacks(traffic: StressLoad, scale: float) -> Iterator[AttackRow]:
    """Run every attack, one after the other, beside a good client."""
    GoodClient(traffic).send()
    for attack, make in ATTACKS.items():
        bodies = make()
        count = max(len(bodies), round(REQUESTS * scale), BATCH)
        yield _run(traffic, attack, list(itertools.islice(itertools.cycle(bodies), count)))


def _run(traffic: StressLoad, attack: str, bodies: Sequence[HostileRequest]) -> AttackRow:
    worker, good = traffic.worker(), GoodClient(traffic)
    assert worker is not None
    with _peak(worker) as peak, good.sending(), ThreadPoolExecutor(ATTACKERS) as pool:
        answers = Counter(pool.map(lambda body: _send(traffic, body), bodies))
    for _ in range(3):  # and afterwards
        good.send()
    now = traffic.worker()
    return AttackRow(attack, answers, good, peak[0], now is not None and now.pid == worker.pid)


def _send(traffic: StressLoad, body: HostileRequest) -> int:
    side = traffic.server.inference
    url = f"{side.url}/predictions/{traffic.model}"
    headers = {**side.headers, **body.headers}
    try:
        return httpx.post(
            url, headers=headers, files=body.files, data=body.data, content=body.content, timeout=PATIENCE
        ).status_code
    except httpx.HTTPError:
        return 0


@contextmanager
def _peak(worker: psutil.Process) -> Iterator[list[int]]:
    """Yield a list whose number is, after the block, by how many bytes the worker grew at most."""
    start, over, found = worker.memory_info().rss, threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.005):
            try:
                found[0] = max(found[0], worker.memory_info().rss - start)
            except psutil.NoSuchProcess:
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
