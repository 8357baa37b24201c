"""What batchSize and maxBatchDelay trade: throughput under load against the wait of a lone request."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camserve.bench.contenders import OURS, Parts, build_ours
from camserve.bench.load import Load, closed_loop
from camserve.bench.photos import jpegs
from camserve.bench.report import Report, Table
from camserve.bench.served import CONNECTIONS, EXPLAINED, PHOTOS, WARM_SECONDS, running

SIZES, DELAYS = (1, 4, 8, 16), (1, 5, 10, 20)
USUAL_SIZE, USUAL_DELAY = 8, 10
FEW = 2  # connections of a server that is hardly used


@dataclass(frozen=True)
class Choice:
    """One setting, and what it led to."""

    batch_size: int
    delay: int  # milliseconds
    throughput: float  # answers a second, many connections
    p50: float  # milliseconds, many connections
    p99: float
    few_p50: float  # milliseconds, few connections
    alone_p50: float  # milliseconds, one request at a time


def choices() -> list[tuple[int, int]]:
    """Return the settings that are tried: every size at the usual delay, every delay at the usual size."""
    pairs = [(size, USUAL_DELAY) for size in SIZES] + [(USUAL_SIZE, delay) for delay in DELAYS]
    return list(dict.fromkeys(pairs))


def measure(model: str, seconds: float, say: Callable[[str], None]) -> list[Choice]:
    """Serve one archive under every setting, one server after the other."""
    photos, found = jpegs(PHOTOS), []
    for size, delay in choices():
        say(f"batchSize {size}, maxBatchDelay {delay} ms")
        serving: dict[str, Any] = {"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 120}
        serving.update(batchSize=size, maxBatchDelay=delay)
        with tempfile.TemporaryDirectory(prefix="camserve-batching-") as name:
            archive = build_ours(Parts(model, Path(name) / "store", serving))
            with running({OURS: archive}, Path(name) / "servers", lambda _: None) as contenders:
                client = contenders[OURS].client(EXPLAINED)
                closed_loop(client, photos, CONNECTIONS, WARM_SECONDS)
                loads = [closed_loop(client, photos, connections, seconds) for connections in (CONNECTIONS, FEW, 1)]
        found.append(_choice(size, delay, loads))
    return found


def _choice(size: int, delay: int, loads: Sequence[Load]) -> Choice:
    many, few, alone = loads
    middles = (few.percentile(50), alone.percentile(50))
    return Choice(size, delay, many.throughput, many.percentile(50), many.percentile(99), *middles)


def batching_report(found: Sequence[Choice], model: str, command: str, setting: dict[str, str]) -> Report:
    """Tell what was measured."""
    usual = ("batchSize", "maxBatchDelay ms", "answers a second", "p50 ms", "p99 ms")
    head = (*usual, f"p50 ms, {FEW} connections", "p50 ms, one at a time")
    rows = [
        (
            str(each.batch_size),
            str(each.delay),
            f"{each.throughput:.2f}",
            *(f"{ms:.0f}" for ms in (each.p50, each.p99, each.few_p50, each.alone_p50)),
        )
        for each in found
    ]
    table = Table(f"{model}, explained, {CONNECTIONS} connections where nothing else is said", head, rows)
    return Report("batching", command, setting, [table], [], list(found))
