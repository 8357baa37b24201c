"""The cost of explained answers on a real TorchServe, beside the stock handler and a naive one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from camserve.bench.contenders import CAMSERVE, STOCK
from camserve.bench.load import Load, RequestAddress, run_closed_loop, run_fixed_rate, send_once
from camserve.bench.pairs import Spread, spread_of, summarise_ratios
from camserve.bench.photos import encode_jpegs
from camserve.bench.workloads import (
    ALONE,
    COMPARED,
    CONNECTIONS,
    EXPLAINED,
    LOADED,
    PHOTOS,
    PLAIN,
    RATIOS,
    STOCK_PLAIN,
    WARM_UP_LOAD_SECONDS,
    WORKLOADS,
    Workload,
    read_best_class,
)
from camserve.errors import ConfigError
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.values import Progress

TIMED = 20  # requests whose stages are reported


@dataclass(frozen=True)
class ServerPlan:
    """How long the server benchmark measures."""

    rounds: int
    seconds: float  # of one workload's turn
    alone_seconds: float  # of a turn with one request at a time
    shares: Sequence[float]  # of a workload's own throughput, at which latency is measured
    load_seconds: float


QUICK_PLAN = ServerPlan(rounds=3, seconds=7.0, alone_seconds=2.0, shares=(0.3, 0.6, 0.9), load_seconds=6.0)
FULL_PLAN = ServerPlan(rounds=7, seconds=15.0, alone_seconds=6.0, shares=(0.2, 0.4, 0.6, 0.8, 0.9), load_seconds=15.0)


@dataclass(frozen=True)
class LoadSummary:
    """One workload with many connections."""

    throughput: Spread  # answers a second, over rounds
    p50: Spread  # milliseconds
    p99: Spread
    size: float  # bytes of one answer
    failed: int


@dataclass(frozen=True)
class RateResult:
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

    def client(self, workload: Workload, route: str = "predictions") -> RequestAddress:
        """Return the client that sends a workload to this server."""
        side = self.server.inference
        return RequestAddress(f"{side.url}/{route}/{workload.server}", {**side.headers, **workload.headers})

    def resident(self, model: str) -> int:
        """Return the bytes that the model's workers hold."""
        workers = self.server.workers(model)
        return sum(psutil.Process(int(worker["pid"])).memory_info().rss for worker in workers)


@dataclass(frozen=True)
class ServerFindings:
    """Everything that the server benchmark measures."""

    agreement: float  # share of photos of which all handlers predict the same class
    turns: Mapping[str, LoadSummary]
    ratios: Mapping[str, Spread]  # of throughput, over rounds
    alone: Mapping[str, Spread]  # median milliseconds of one request at a time, over rounds
    alone_ratio: Spread  # explained / plain
    loaded: Sequence[RateResult]
    servers: Mapping[str, Mapping[str, float]]  # seconds to READY, bytes held, bytes of the archive
    stages: Mapping[str, float]  # median milliseconds of one request
    stock_explanation: Mapping[str, float]  # seconds and bytes of one /explanations call


@contextmanager
def run_servers(archives: Mapping[str, Path], folder: Path, report: Progress) -> Iterator[dict[str, Contender]]:
    """Start one server for each archive, and stop them all."""
    with ExitStack() as stack:
        started = {}
        for name, archive in archives.items():
            report(f"starting the server of {name}")
            start = time.perf_counter()
            server = stack.enter_context(Server([archive], folder / name, free_ports()))
            started[name] = Contender(server, time.perf_counter() - start, archive.stat().st_size)
        yield started


def measure_servers(contenders: Mapping[str, Contender], plan: ServerPlan, report: Progress) -> ServerFindings:
    """Measure everything; only one server works at a time. ConfigError: the servers predict different classes."""
    photos = encode_jpegs(PHOTOS)
    report("comparing predictions, and warming up")
    agreed = measure_agreement(contenders, photos)
    if agreed < 1:
        raise ConfigError(f"the servers predict the same class for {agreed:.0%} of the photos only")
    workloads, single = _among(WORKLOADS, contenders), _among(ALONE, contenders)
    for workload in workloads:
        run_closed_loop(contenders[workload.server].client(workload), photos, CONNECTIONS, WARM_UP_LOAD_SECONDS)
    many = _rounds(contenders, workloads, photos, CONNECTIONS, (plan.rounds, plan.seconds), report)
    alone = _rounds(contenders, single, photos, 1, (plan.rounds, plan.alone_seconds), report)
    turns = {workload.name: _summarise_loads(many[workload.name]) for workload in workloads}
    rates = {name: [load.throughput for load in loads] for name, loads in many.items()}
    middles = {name: [load.percentile(50) for load in loads] for name, loads in alone.items()}
    loaded = list(_loaded(contenders, turns, photos, plan, report))
    stages = _stages(contenders[CAMSERVE], photos)
    return ServerFindings(
        agreed,
        turns,
        {
            f"{one.name} / {other.name}": summarise_ratios(rates, one.name, other.name)
            for one, other in RATIOS
            if one in workloads
        },
        {name: spread_of(values) for name, values in middles.items()},
        summarise_ratios(middles, EXPLAINED.name, PLAIN.name),
        loaded,
        {name: _describe_server(name, contender) for name, contender in contenders.items()},
        stages,
        # Last: the stock handler explains every later request after the first explanation.
        _stock_explanation(contenders[STOCK], photos[0]),
    )


def _among(workloads: Sequence[Workload], contenders: Mapping[str, Contender]) -> list[Workload]:
    return [workload for workload in workloads if workload.server in contenders]


def measure_agreement(contenders: Mapping[str, Contender], photos: Sequence[bytes]) -> float:
    """Return the share of photos of which all handlers find the same class. ConfigError: a server refuses one."""
    found = [
        {
            read_best_class(send_once(contenders[workload.server].client(workload), photo))
            for workload in _among(COMPARED, contenders)
        }
        for photo in photos
    ]
    return sum(len(classes) == 1 for classes in found) / len(found)


def _rounds(
    contenders: Mapping[str, Contender],
    workloads: Sequence[Workload],
    photos: Sequence[bytes],
    connections: int,
    extent: tuple[int, float],
    report: Progress,
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {workload.name: [] for workload in workloads}
    for number in range(extent[0]):
        report(f"round {number + 1} of {extent[0]}, {connections} connection{'s' if connections > 1 else ''}")
        for workload in workloads:
            client = contenders[workload.server].client(workload)
            loads[workload.name].append(run_closed_loop(client, photos, connections, extent[1]))
    return loads


def _summarise_loads(loads: Sequence[Load]) -> LoadSummary:
    return LoadSummary(
        spread_of([load.throughput for load in loads]),
        spread_of([load.percentile(50) for load in loads]),
        spread_of([load.percentile(99) for load in loads]),
        median(load.size for load in loads),
        sum(load.failed for load in loads),
    )


def _loaded(
    contenders: Mapping[str, Contender],
    turns: Mapping[str, LoadSummary],
    photos: Sequence[bytes],
    plan: ServerPlan,
    report: Progress,
) -> Iterator[RateResult]:
    for share in plan.shares:
        report(f"latency at {share:.0%} of its own throughput")
        for workload in _among(LOADED, contenders):
            rate = share * turns[workload.name].throughput.median
            load = run_fixed_rate(contenders[workload.server].client(workload), photos, rate, plan.load_seconds)
            yield RateResult(workload.name, rate, load.percentile(50), load.percentile(99), load.failed)


def _describe_server(name: str, contender: Contender) -> dict[str, float]:
    return {
        "ready_seconds": contender.ready_seconds,
        "resident_bytes": contender.resident(name),
        "archive_bytes": contender.archive_bytes,
    }


def _stages(contender: Contender, photos: Sequence[bytes]) -> dict[str, float]:
    client = contender.client(Workload("", CAMSERVE, {"X-Camserve-Details": "timing"}))
    requests = []
    for number in range(TIMED):
        start = time.perf_counter()
        reply = send_once(client, photos[number % len(photos)])
        elapsed = (time.perf_counter() - start) * 1000
        stages = json.loads(reply.body)["timing_ms"]
        requests.append({**stages, "server, queue and network": elapsed - sum(stages.values())})
    return {stage: median(request[stage] for request in requests) for stage in requests[0]}


def _stock_explanation(contender: Contender, photo: bytes) -> dict[str, float]:
    start = time.perf_counter()
    reply = send_once(contender.client(STOCK_PLAIN, "explanations"), photo)
    return {"seconds": time.perf_counter() - start, "bytes": len(reply.body), "status": reply.status}
