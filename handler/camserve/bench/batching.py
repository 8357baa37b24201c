"""What batchSize and maxBatchDelay trade: throughput under load against the wait of a lone request."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camserve.bench.contenders import CAMSERVE, Parts, build_camserve
from camserve.bench.load import Load, run_closed_loop
from camserve.bench.photos import encode_jpegs
from camserve.bench.report import BenchReport, Table
from camserve.bench.served import run_servers
from camserve.bench.workloads import CONNECTIONS, EXPLAINED, PHOTOS, WARM_UP_LOAD_SECONDS
from camserve.values import Progress

SIZES, DELAYS = (1, 4, 8, 16), (1, 5, 10, 20)
USUAL_SIZE, USUAL_DELAY = 8, 10
FEW_CONNECTIONS = 2  # connections of a server that is hardly used


@dataclass(frozen=True)
class BatchingResult:
    """One setting, and what it led to."""

    batch_size: int
    delay: int  # milliseconds
    throughput: float  # answers a second, many connections
    p50: float  # milliseconds, many connections
    p99: float
    few_p50: float  # milliseconds, few connections
    alone_p50: float  # milliseconds, one request at a time


def list_settings() -> list[tuple[int, int]]:
    """Return the settings that are tried: every size at the usual delay, every delay at the usual size."""
    pairs = [(size, USUAL_DELAY) for size in SIZES] + [(USUAL_SIZE, delay) for delay in DELAYS]
    return list(dict.fromkeys(pairs))


def measure_batching(model: str, seconds: float, report: Progress) -> list[BatchingResult]:
    """Serve one archive under every setting, one server after the other."""
    photos, found = encode_jpegs(PHOTOS), []
    for size, delay in list_settings():
        report(f"batchSize {size}, maxBatchDelay {delay} ms")
        serving: dict[str, Any] = {"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 120}
        serving.update(batchSize=size, maxBatchDelay=delay)
        with tempfile.TemporaryDirectory(prefix="camserve-batching-") as name:
            archive = build_camserve(Parts(model, Path(name) / "store", serving))
            with run_servers({CAMSERVE: archive}, Path(name) / "servers", lambda _: None) as contenders:
                client = contenders[CAMSERVE].client(EXPLAINED)
                run_closed_loop(client, photos, CONNECTIONS, WARM_UP_LOAD_SECONDS)
                loads = [
                    run_closed_loop(client, photos, connections, seconds)
                    for connections in (CONNECTIONS, FEW_CONNECTIONS, 1)
                ]
        found.append(_result(size, delay, loads))
    return found


def _result(size: int, delay: int, loads: Sequence[Load]) -> BatchingResult:
    many, few, alone = loads
    middles = (few.percentile(50), alone.percentile(50))
    return BatchingResult(size, delay, many.throughput, many.percentile(50), many.percentile(99), *middles)


def make_batching_report(
    found: Sequence[BatchingResult], model: str, command: str, setting: dict[str, str]
) -> BenchReport:
    """Return the table of the results."""
    usual = ("batchSize", "maxBatchDelay ms", "answers a second", "p50 ms", "p99 ms")
    head = (*usual, f"p50 ms, {FEW_CONNECTIONS} connections", "p50 ms, one at a time")
    rows = [
        (
            str(result.batch_size),
            str(result.delay),
            f"{result.throughput:.2f}",
            *(f"{ms:.0f}" for ms in (result.p50, result.p99, result.few_p50, result.alone_p50)),
        )
        for result in found
    ]
    table = Table(f"{model}, explained, {CONNECTIONS} connections where nothing else is said", head, rows)
    return BenchReport("batching", command, setting, [table], [], list(found))
