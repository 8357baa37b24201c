"""Whether a Ray from which no shard comes is waited for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from camserve.bulk.rows import RunStopped
from camserve.operate.ray_here import PARTS, cluster_address, find_silence
from camserve.values import Progress

SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_BETWEEN_LINES = 60.0
LOST_SECONDS = 20.0  # without an answer; after 60 Ray ends this process, without a line of ours
GROWTH_SECONDS = 300.0  # in which a cluster may grow
Nodes = Sequence[Mapping[str, float]]  # the resources of each machine


class Tasks(NamedTuple):
    """How many tasks run at once, and what each takes."""

    workers: int
    cores: int
    gpus: float

    def describe(self) -> str:
        """Return what a task asks for, in words."""
        gpus = f" and {self.gpus:g} of a GPU" if self.gpus else ""
        return f"{_count(self.cores, 'core')}{gpus}"

    def fit(self, nodes: Nodes) -> bool:
        """Return whether a task runs on one of these machines, once nothing else does."""
        return any(node.get("CPU", 0.0) >= self.cores and node.get("GPU", 0.0) >= self.gpus for node in nodes)

    def count_at_once(self, nodes: Nodes) -> int:
        """Return how many tasks have room on these machines at the same time."""
        return sum(self._count_on(node) for node in nodes)

    def _count_on(self, node: Mapping[str, float]) -> int:
        needed = {"CPU": self.cores, "GPU": self.gpus}
        # In whole parts: 1.0 // 0.1 is 9.
        return min(
            int(PARTS * node.get(kind, 0.0)) // round(PARTS * amount) for kind, amount in needed.items() if amount
        )


def living_nodes() -> Nodes:
    """Return the machines of the Ray that this process uses."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


class Silence:
    """The time since a shard came."""

    def __init__(self, archive: str, tasks: Tasks, report: Progress) -> None:
        """Wait for tasks of an archive that ask for ``tasks``; ``report`` gets a line a minute."""
        self._archive, self._tasks, self._report = archive, tasks, report
        self.end()

    def end(self) -> None:
        """Note that a shard came."""
        self._begun = self._said = time.monotonic()
        self._answered = self._had_room = self._begun

    def look(self) -> None:
        """RunStopped: the cluster is lost, or none of its machines has room for a task."""
        now = time.monotonic()
        address = cluster_address()
        silence = None if address is None else find_silence(address)
        if silence is None:
            self._answered = now
            self._look_at_room(now)
        elif now - self._answered > LOST_SECONDS:
            raise RunStopped(f"the cluster is lost: {silence}")

    def _look_at_room(self, now: float) -> None:
        nodes = living_nodes()
        room = describe_tasks(self._tasks, nodes)
        if self._tasks.fit(nodes):
            self._had_room = now
        elif now - self._had_room > GROWTH_SECONDS:
            raise RunStopped(f"no room for a worker of {self._archive}: {room}: start larger machines")
        if now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            self._report(f"no shard for {now - self._begun:.0f} s: {room}")


def describe_tasks(tasks: Tasks, nodes: Nodes) -> str:
    """Return what a task asks for and what there is, in words."""
    cores, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    also = f" and {_count(gpus, 'GPU')}" if tasks.gpus else ""
    there = f"{_count(cores, 'CPU')}{also} on {_count(len(nodes), 'machine')}"
    return f"a worker asks for {tasks.describe()}, and Ray has {there}"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
