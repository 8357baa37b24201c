"""What an explained answer costs on a real TorchServe, beside the stock handler and a naive one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from camserve.bench.contenders import AOT, AOT_BF16, BF16, NAIVE, OURS, STOCK
from camserve.bench.load import Client, Load, Reply, ask, closed_loop, fixed_rate
from camserve.bench.pairs import Spread, paired, spread
from camserve.bench.photos import jpegs
from camserve.errors import ConfigError
from camserve.operate.ports import free_ports
from camserve.operate.server import Server

Say = Callable[[str], None]

PHOTOS = 8
CONNECTIONS = 16
TIMED = 20  # requests whose stages are told
WARM_SECONDS = 2.0
PICTURE_SIDE = "600"  # longest side of drawn pictures, pixels


@dataclass(frozen=True)
class Workload:
    """One kind of request to one server."""

    name: str
    server: str
    headers: Mapping[str, str] = field(default_factory=dict)


EXPLAINED = Workload("camserve, explained", OURS)
PLAIN = Workload("camserve, plain", OURS, {"X-Camserve-Explain": "false"})
PICTURE = Workload("camserve, overlay picture", OURS, {"Accept": "image/jpeg", "X-Camserve-Size": PICTURE_SIDE})
STOCK_PLAIN = Workload("image_classifier, plain", STOCK)
NAIVE_EXPLAINED = Workload("pytorch-grad-cam, explained", NAIVE)
COMPILED = Workload("camserve aot, explained", AOT)
HALVED = Workload("camserve bf16, explained", BF16)
COMPILED_HALVED = Workload("camserve aot bf16, explained", AOT_BF16)
WORKLOADS = (EXPLAINED, STOCK_PLAIN, COMPILED, HALVED, COMPILED_HALVED, PLAIN, NAIVE_EXPLAINED, PICTURE)
ASKED = (EXPLAINED, PLAIN, COMPILED, STOCK_PLAIN, NAIVE_EXPLAINED)  # all of one precision, before anything is timed
ALONE = (EXPLAINED, PLAIN, COMPILED, HALVED, STOCK_PLAIN)
LOADED = (EXPLAINED, COMPILED, STOCK_PLAIN, NAIVE_EXPLAINED)
RATIOS = (
    (EXPLAINED, STOCK_PLAIN),
    (COMPILED, STOCK_PLAIN),
    (HALVED, STOCK_PLAIN),
    (COMPILED_HALVED, STOCK_PLAIN),
    (EXPLAINED, PLAIN),
    (EXPLAINED, NAIVE_EXPLAINED),
    (PICTURE, EXPLAINED),
)


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int
    seconds: float  # of one workload's turn
    alone_seconds: float  # of a turn with one request at a time
    shares: Sequence[float]  # of a workload's own throughput, at which latency is told
    load_seconds: float


QUICK = Plan(rounds=3, seconds=7.0, alone_seconds=2.0, shares=(0.3, 0.6, 0.9), load_seconds=6.0)
FULL = Plan(rounds=7, seconds=15.0, alone_seconds=6.0, shares=(0.2, 0.4, 0.6, 0.8, 0.9), load_seconds=15.0)


@dataclass(frozen=True)
class Turn:
    """One workload with many connections."""

    throughput: Spread  # answers a second, over rounds
    p50: Spread  # milliseconds
    p99: Spread
    size: float  # bytes of one answer
    failed: int


@dataclass(frozen=True)
class Loaded:
    """One workload at one rate of arrival."""

    workload: str
    rate: float  # requests a second
    p50: float  # milliseconds
    p99: float
    failed: int


@dataclass(frozen=True)
class Contender:
    """One server, running."""

    server: Server
    ready_seconds: float  # from the command line to every worker READY
    archive_bytes: int

    def client(self, workload: Workload, route: str = "predictions") -> Client:
        """Return how a workload asks this server."""
        side = self.server.inference
        return Client(f"{side.url}/{route}/{workload.server}", {**side.headers, **workload.headers})

    def resident(self, model: str) -> int:
        """Return the bytes that the model's workers hold."""
        workers = self.server.workers(model)
        return sum(psutil.Process(int(each["pid"])).memory_info().rss for each in workers)


@dataclass(frozen=True)
class Findings:
    """All that was measured."""

    agreement: float  # share of photos of which all handlers predict the same class
    turns: Mapping[str, Turn]
    ratios: Mapping[str, Spread]  # of throughput, over rounds
    alone: Mapping[str, Spread]  # median milliseconds of one request at a time, over rounds
    alone_ratio: Spread  # explained / plain
    loaded: Sequence[Loaded]
    servers: Mapping[str, Mapping[str, float]]  # seconds to READY, bytes held, bytes of the archive
    stages: Mapping[str, float]  # median milliseconds of one request
    stock_explanation: Mapping[str, float]  # seconds and bytes of one /explanations call


@contextmanager
def running(archives: Mapping[str, Path], folder: Path, say: Say) -> Iterator[dict[str, Contender]]:
    """Start one server for each archive, and stop them all."""
    with ExitStack() as stack:
        started = {}
        for name, archive in archives.items():
            say(f"starting the server of {name}")
            start = time.perf_counter()
            server = stack.enter_context(Server([archive], folder / name, free_ports()))
            started[name] = Contender(server, time.perf_counter() - start, archive.stat().st_size)
        yield started


def measure(contenders: Mapping[str, Contender], plan: Plan, say: Say) -> Findings:
    """Measure everything; only one server works at a time. ConfigError: the servers predict different classes."""
    photos = jpegs(PHOTOS)
    say("comparing predictions, and warming up")
    agreed = agreement(contenders, photos)
    if agreed < 1:
        raise ConfigError(f"the servers predict the same class for {agreed:.0%} of the photos only")
    workloads, single = _among(WORKLOADS, contenders), _among(ALONE, contenders)
    for workload in workloads:
        closed_loop(contenders[workload.server].client(workload), photos, CONNECTIONS, WARM_SECONDS)
    many = _rounds(contenders, workloads, photos, CONNECTIONS, (plan.rounds, plan.seconds), say)
    alone = _rounds(contenders, single, photos, 1, (plan.rounds, plan.alone_seconds), say)
    turns = {workload.name: _turn(many[workload.name]) for workload in workloads}
    rates = {name: [each.throughput for each in loads] for name, loads in many.items()}
    middles = {name: [each.percentile(50) for each in loads] for name, loads in alone.items()}
    loaded = list(_loaded(contenders, turns, photos, plan, say))
    stages = _stages(contenders[OURS], photos)
    return Findings(
        agreed,
        turns,
        {
            f"{one.name} / {other.name}": paired(rates, one.name, other.name)
            for one, other in RATIOS
            if one in workloads
        },
        {name: spread(values) for name, values in middles.items()},
        paired(middles, EXPLAINED.name, PLAIN.name),
        loaded,
        {name: _server(name, each) for name, each in contenders.items()},
        stages,
        # Last: the stock handler explains every later request once it was asked to explain one.
        _stock_explanation(contenders[STOCK], photos[0]),
    )


def _among(workloads: Sequence[Workload], contenders: Mapping[str, Contender]) -> list[Workload]:
    return [each for each in workloads if each.server in contenders]


def agreement(contenders: Mapping[str, Contender], photos: Sequence[bytes]) -> float:
    """Return the share of photos of which all handlers find the same class. ConfigError: a server refuses one."""
    found = [
        {best_class(ask(contenders[each.server].client(each), photo)) for each in _among(ASKED, contenders)}
        for photo in photos
    ]
    return sum(len(classes) == 1 for classes in found) / len(found)


def best_class(reply: Reply) -> int:
    """Read the best class from an answer of any of the three handlers. ConfigError: it is a refusal."""
    if reply.status != 200:
        raise ConfigError(f"a server answers {reply.status}: {reply.body[:200].decode(errors='replace')}")
    told: dict[str, Any] = json.loads(reply.body)
    if "predictions" in told:
        return int(told["predictions"][0]["index"])
    classes: dict[str, float] = told.get("classes", told)
    return int(max(classes, key=lambda name: classes[name]))


def _rounds(
    contenders: Mapping[str, Contender],
    workloads: Sequence[Workload],
    photos: Sequence[bytes],
    connections: int,
    extent: tuple[int, float],
    say: Say,
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {workload.name: [] for workload in workloads}
    for number in range(extent[0]):
        say(f"round {number + 1} of {extent[0]}, {connections} connection{'s' if connections > 1 else ''}")
        for workload in workloads:
            client = contenders[workload.server].client(workload)
            loads[workload.name].append(closed_loop(client, photos, connections, extent[1]))
    return loads


def _turn(loads: Sequence[Load]) -> Turn:
    return Turn(
        spread([each.throughput for each in loads]),
        spread([each.percentile(50) for each in loads]),
        spread([each.percentile(99) for each in loads]),
        median(each.size for each in loads),
        sum(each.failed for each in loads),
    )


def _loaded(
    contenders: Mapping[str, Contender], turns: Mapping[str, Turn], photos: Sequence[bytes], plan: Plan, say: Say
) -> Iterator[Loaded]:
    for share in plan.shares:
        say(f"latency at {share:.0%} of what each can do")
        for workload in _among(LOADED, contenders):
            rate = share * turns[workload.name].throughput.median
            load = fixed_rate(contenders[workload.server].client(workload), photos, rate, plan.load_seconds)
            yield Loaded(workload.name, rate, load.percentile(50), load.percentile(99), load.failed)


def _server(name: str, contender: Contender) -> dict[str, float]:
    return {
        "ready_seconds": contender.ready_seconds,
        "resident_bytes": contender.resident(name),
        "archive_bytes": contender.archive_bytes,
    }


def _stages(contender: Contender, photos: Sequence[bytes]) -> dict[str, float]:
    client = contender.client(Workload("", OURS, {"X-Camserve-Details": "timing"}))
    told = []
    for number in range(TIMED):
        start = time.perf_counter()
        reply = ask(client, photos[number % len(photos)])
        elapsed = (time.perf_counter() - start) * 1000
        stages = json.loads(reply.body)["timing_ms"]
        told.append({**stages, "server, queue and network": elapsed - sum(stages.values())})
    return {stage: median(each[stage] for each in told) for stage in told[0]}


def _stock_explanation(contender: Contender, photo: bytes) -> dict[str, float]:
    start = time.perf_counter()
    reply = ask(contender.client(STOCK_PLAIN, "explanations"), photo)
    return {"seconds": time.perf_counter() - start, "bytes": len(reply.body), "status": reply.status}
