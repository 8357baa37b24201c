"""A discrete-event simulation of replicas that answer in batches: arrivals, autoscaling, failures."""

from __future__ import annotations

import heapq
import random
from bisect import bisect
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Service = Callable[[int, random.Random, float], float]  # seconds of a batch of so many requests that begins then
NEAR = 5  # measured batches, of which one is drawn


@dataclass(frozen=True)
class Scenario:
    """What is simulated; times in seconds."""

    rate: float  # requests a second, a Poisson process
    seconds: float
    replicas: int = 2  # at the start
    batch_size: int = 8
    delay: float = 0.01  # that the first of a batch waits for others
    waiting: int = 64  # requests besides two batches at each replica; more are refused
    most: int = 0  # replicas that autoscaling may reach; 0: there is none
    target: float = 0.6  # share of the time in which a replica works
    look: float = 15.0  # between two decisions
    start: float = 30.0  # until a new replica answers
    failures: float = 0.0  # of one replica, a second


@dataclass
class Result:
    """What came out."""

    latencies: list[float] = field(default_factory=list)
    batches: Counter[int] = field(default_factory=Counter)  # by their size
    refused: int = 0
    lost: int = 0  # in flight at a replica that failed
    replicas: int = 0  # in the end

    def percentile(self, percent: float) -> float:
        """Return the seconds that so many percent of the answers took at most."""
        return float(np.percentile(self.latencies, percent))


class _Replica:
    """Gathers a batch once it is free, and answers it."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.waiting: deque[float] = deque()  # when each arrived
        self.batch: list[float] = []
        self._gathering = 0  # counts the batches, so that a late timer is known
        self._is_gathering = False
        self.is_alive = True
        self.busy = 0.0  # seconds since the last look

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.batch)

    def offer(self, arrived: float) -> None:
        self.waiting.append(arrived)
        if not self.batch:
            self._gather()

    def _gather(self) -> None:
        if len(self.waiting) >= self._run.scenario.batch_size:
            self._begin()
        elif not self._is_gathering:
            self._is_gathering, number = True, self._gathering
            self._run.after(self._run.scenario.delay, lambda: self._begin() if number == self._gathering else None)

    def _begin(self) -> None:
        self._gathering += 1
        self._is_gathering = False
        if not self.is_alive:
            return
        size = min(len(self.waiting), self._run.scenario.batch_size)
        self.batch = [self.waiting.popleft() for _ in range(size)]
        seconds = self._run.service(size, self._run.source, self._run.now)
        self.busy += seconds
        self._run.after(seconds, self._finish)

    def _finish(self) -> None:
        if not self.is_alive:
            return
        self._run.result.latencies += [self._run.now - arrived for arrived in self.batch]
        self._run.result.batches[len(self.batch)] += 1
        self.batch = []
        self._run.hand_out()
        if self.waiting and not self.batch:
            self._gather()


class _Run:
    def __init__(self, scenario: Scenario, service: Service, seed: int, instants: Sequence[float]) -> None:
        self.scenario, self.service, self.source = scenario, service, random.Random(seed)
        self._instants = instants
        self.now, self.result = 0.0, Result()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._queue: deque[float] = deque()
        self._replicas = [_Replica(self) for _ in range(scenario.replicas)]
        self._starting = 0

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + seconds, self.source.getrandbits(62), call))

    def run(self) -> Result:
        for instant in self._instants:
            self.after(instant, self._arrive)
        if not self._instants:
            self._arrive_later()
        if self.scenario.most:
            self.after(self.scenario.look, self._scale)
        if self.scenario.failures:
            self.after(self._until_failure(), self._fail)
        while self._events:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.result.replicas = len(self._replicas)
        return self.result

    def _arrive_later(self) -> None:
        seconds = self.source.expovariate(self.scenario.rate)
        if self.now + seconds < self.scenario.seconds:
            self.after(seconds, self._arrive_as_drawn)

    def _arrive_as_drawn(self) -> None:
        self._arrive_later()
        self._arrive()

    def _arrive(self) -> None:
        self._queue.append(self.now)
        self.hand_out()
        if len(self._queue) > self.scenario.waiting:
            self._queue.pop()
            self.result.refused += 1

    def hand_out(self) -> None:
        """Give what waits to the less loaded of two replicas drawn at random, as Ray Serve does."""
        while self._queue and self._replicas:
            drawn = self.source.sample(self._replicas, min(2, len(self._replicas)))
            replica = min(drawn, key=lambda one: one.load)
            if replica.load >= 2 * self.scenario.batch_size:
                replica = min(self._replicas, key=lambda one: one.load)
            if replica.load >= 2 * self.scenario.batch_size:
                return
            replica.offer(self._queue.popleft())

    def _is_over(self) -> bool:
        return self.now >= self.scenario.seconds

    def _scale(self) -> None:
        busy = sum(replica.busy for replica in self._replicas) / self.scenario.look
        for replica in self._replicas:
            replica.busy = 0.0
        wanted = min(self.scenario.most, max(self.scenario.replicas, -int(-busy // self.scenario.target)))
        for _ in range(wanted - len(self._replicas) - self._starting):
            self._start_one()
        if not self._is_over():
            self.after(self.scenario.look, self._scale)

    def _start_one(self) -> None:
        self._starting += 1
        self.after(self.scenario.start, self._join)

    def _join(self) -> None:
        self._starting -= 1
        self._replicas.append(_Replica(self))
        self.hand_out()

    def _until_failure(self) -> float:
        return self.source.expovariate(self.scenario.failures * max(1, len(self._replicas)))

    def _fail(self) -> None:
        if self._is_over():
            return
        if self._replicas:
            replica = self._replicas.pop(self.source.randrange(len(self._replicas)))
            replica.is_alive = False
            self.result.lost += replica.load
            self._start_one()
        self.after(self._until_failure(), self._fail)


def simulate(scenario: Scenario, service: Service, seed: int = 0, instants: Sequence[float] = ()) -> Result:
    """Return what becomes of the requests of a scenario, which arrive at these instants, if any are given."""
    return _Run(scenario, service, seed, instants).run()


class Batch(NamedTuple):
    """One measured batch."""

    begun: float  # seconds since the measurement began
    size: int
    seconds: float


def measured_service(batches: Sequence[Batch]) -> Service:
    """Return a service that draws from the measured batches of a size nearest in time: a machine has slow minutes.

    A size that was not measured takes what the nearest took, a row for a row.
    """
    by_size: dict[int, list[Batch]] = defaultdict(list)
    for batch in sorted(batches):
        by_size[batch.size].append(batch)

    def draw(size: int, source: random.Random, now: float) -> float:
        nearest = min(by_size, key=lambda known: abs(known - size))
        known = by_size[nearest]
        at = bisect(known, (now,)) - NEAR // 2
        first = max(0, min(at, len(known) - NEAR))
        return source.choice(known[first : first + NEAR]).seconds * size / nearest

    return draw
