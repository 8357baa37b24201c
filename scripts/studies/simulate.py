"""Compare a simulation with two measured replicas under Ray Serve, or simulate scenarios that nobody measured.

Each turn measures requests at random instants: their latencies, and when which batch took how long; and, before and
after, what a lone request takes beside its batch. The simulation gets the instants and the batches, not the latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from camserve.asgi.batches import BatchRules, read_rules
from camserve.bench.load import RequestAddress, draw_arrivals
from camserve.build.archive import build_archive
from camserve.build.mar.unpack import read_contents
from camserve.cli.terminal import say
from camserve.operate.ports import free_ports
from camserve.settings import RuntimeSpec
from queueing import Batch, Result, Scenario, measured_service, simulate
from written_network import write_network

COMMAND = [sys.executable, "-c", "import sys; from camserve.cli import main; sys.exit(main(sys.argv[1:]))"]
OK = 200
REPEATS = 20  # of a simulation, with other batches drawn
LONE = 20  # requests one after the other
PATIENCE = 120.0  # seconds for an answer
SLEEPY = """
import os
import random
import time

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, 4)
        self.head = nn.Linear(8, 2)

    def forward(self, pixels):
        time.sleep(float(os.environ.get("SECONDS_A_ROW", 0)) * len(pixels) * random.uniform(0.5, 1.5))
        return self.head(self.features(pixels).mean((2, 3)))
"""
DAY = 1e9 / 86_400  # requests a second


class Answered(NamedTuple):
    """One answer to a measured request."""

    due: float  # seconds since the first
    seconds: float
    status: int
    stages: tuple[float, ...]  # seconds, the same for all rows of a batch


async def ask(client: RequestAddress, photo: bytes, since: float, due: float = 0.0) -> Answered:
    """Return the answer to one request on a connection of its own; ``since`` is when it was due."""
    host, port = client.url.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(client.encode(photo))
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].split("\r\n")[0])
    body = json.loads(await reader.readexactly(length))
    seconds = time.perf_counter() - since
    writer.close()
    stages = tuple(value / 1000 for value in body.get("timing_ms", {}).values())
    return Answered(due, seconds, int(head.split()[1]), stages)


async def ask_at(client: RequestAddress, photos: Sequence[bytes], instants: Sequence[float]) -> list[Answered]:
    """Return the answers to requests that are sent at these instants, whether or not earlier ones are answered."""
    start, under_way = time.perf_counter(), []
    for number, instant in enumerate(instants):
        await asyncio.sleep(max(0.0, start + instant - time.perf_counter()))
        under_way.append(asyncio.create_task(ask(client, photos[number % len(photos)], start + instant, instant)))
    return await asyncio.gather(*under_way)


async def ask_alone(client: RequestAddress, photos: Sequence[bytes]) -> list[Answered]:
    """Return the answers to requests one after the other."""
    return [await ask(client, photos[number % len(photos)], time.perf_counter()) for number in range(LONE)]


async def find_rate(client: RequestAddress, photos: Sequence[bytes], seconds: float) -> float:
    """Return how many answers a second 16 clients get."""
    start, done = time.perf_counter(), 0

    async def keep_asking() -> None:
        nonlocal done
        while time.perf_counter() < start + seconds:
            await ask(client, photos[done % len(photos)], 0.0)
            done += 1

    await asyncio.gather(*(keep_asking() for _ in range(16)))
    return done / (time.perf_counter() - start)


def find_batches(answers: Sequence[Answered]) -> list[Batch]:
    """Return the batches of answers: rows with the same stages were one."""
    rows: dict[tuple[float, ...], list[float]] = defaultdict(list)
    for answer in answers:
        if answer.status == OK:
            rows[answer.stages].append(answer.due + answer.seconds)
    return [Batch(min(ended) - sum(stages), len(ended), sum(stages)) for stages, ended in rows.items()]


def predict(instants: Sequence[float], rules: BatchRules, batches: Sequence[Batch], lone: Sequence[Answered]) -> Result:
    """Return the simulated answers of two replicas, each with the time of a lone request beside its batch."""
    beside = [max(0.0, answer.seconds - rules.delay - sum(answer.stages)) for answer in lone]
    scenario = Scenario(0.0, instants[-1], 2, rules.size, rules.delay, rules.waiting)
    service = measured_service(batches)
    source, latencies = random.Random(1), list[float]()
    for seed in range(REPEATS):
        latencies += [taken + source.choice(beside) for taken in simulate(scenario, service, seed, instants).latencies]
    return Result(latencies)


def compare(
    archive: Path, photos: Sequence[bytes], url: str, token: str, seconds: float, turns: int, load: float
) -> None:
    """Print the turns, and the median error of the simulated p99."""
    client = RequestAddress(url, {"Authorization": f"Bearer {token}", "X-Camserve-Details": "timing"})
    rules, errors = read_rules(read_contents(archive).config), []
    asyncio.run(find_rate(client, photos, seconds / 4))  # everything is in memory then
    print(
        "| requests/s | p50 measured | simulated | p99 measured | simulated | error of p99 |\n|---|---|---|---|---|---|"
    )
    for turn in range(turns):
        rate = load * asyncio.run(find_rate(client, photos, seconds / 4))
        lone = asyncio.run(ask_alone(client, photos))
        instants = draw_arrivals(rate, seconds, turn)
        answers = asyncio.run(ask_at(client, photos, instants))
        lone += asyncio.run(ask_alone(client, photos))
        real = [answer.seconds for answer in answers if answer.status == OK]
        found = predict(instants, rules, find_batches(answers), lone)
        p50, p99 = (statistics.quantiles(real, n=100)[at] for at in (49, 98))
        errors.append(found.percentile(99) / p99 - 1)
        cells = [f"{1000 * value:.0f} ms" for value in (p50, found.percentile(50), p99, found.percentile(99))]
        print(f"| {rate:.1f} | {' | '.join(cells)} | {errors[-1]:+.0%} |", flush=True)
    print(
        f"median error of p99: {statistics.median(errors):+.0%}; median size {statistics.median(map(abs, errors)):.0%}"
    )


def measure(archive: Path, folder: Path, seconds: float, turns: int, load: float) -> None:
    """Serve an archive of two workers under Ray and compare."""
    assert int(read_contents(archive).config["minWorkers"]) == 2
    photos = [path.read_bytes() for path in sorted(folder.iterdir())[:100]]
    port = free_ports(20_000 + os.getpid() % 10_000, 1)
    with tempfile.TemporaryDirectory() as state:
        command = [*COMMAND, "serve", str(archive), "--engine", "ray", "--port", str(port), "--folder", state]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                if not process.stdout.readline().startswith("curl"):
                    raise SystemExit("the server did not start")
                token = (Path(state) / "token").read_text(encoding="utf-8")
                url = f"http://127.0.0.1:{port}/predictions/{archive.stem}"
                compare(archive, photos, url, token, seconds, turns, load)
            finally:
                process.send_signal(signal.SIGTERM)


def make_sleepy(folder: Path) -> Path:
    """Return an archive whose network sleeps, so that what else the machine does hardly counts."""
    recipe = replace(
        write_network(folder, "sleepy", SLEEPY),
        runtime=RuntimeSpec(threads=1),
        serving={"minWorkers": 2, "maxWorkers": 2, "batchSize": 4, "maxBatchDelay": 20},
    )
    return build_archive(recipe, folder / "store", say)


def what_if(service_ms: float) -> None:
    """Print 10^9 requests a day on so many replicas of one core, with and without failures."""
    print("| replicas | load | failures of a replica | p50 | p99 | refused | lost |\n|---|---|---|---|---|---|---|")
    for load in (0.95, 0.8, 0.6):
        for hours in (0, 1):
            replicas = round(DAY * service_ms / 1000 / load)
            failures = 1 / (3600 * hours) if hours else 0.0
            scenario = Scenario(DAY, 60, replicas, batch_size=1, delay=0.0, failures=failures, start=60.0)
            found = simulate(scenario, lambda size, source, _now: service_ms / 1000 * size * source.uniform(0.8, 1.2))
            total = len(found.latencies) + found.refused + found.lost
            times = " | ".join(f"{1000 * found.percentile(percent):.0f} ms" for percent in (50, 99))
            often = f"one in {hours} h" if hours else "none"
            shares = f"{found.refused / total:.2%} | {found.lost / total:.4%}"
            print(f"| {replicas} | {load:.0%} | {often} | {times} | {shares} |", flush=True)


def main() -> None:
    """Measure, or say what if."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="a folder")
    parser.add_argument("--archive", type=Path, help="of two workers: --set serving.minWorkers=2")
    parser.add_argument("--sleep", type=float, default=0.1, help="without --archive: seconds a row of a network")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--load", type=float, default=0.5, help="of what 16 clients get")
    parser.add_argument("--what-if", type=float, metavar="MS", help="10^9 a day at so many milliseconds of a core")
    args = parser.parse_args()
    if args.what_if:
        what_if(args.what_if)
    elif args.photos is None:
        parser.error("name a folder of photos, or --what-if MS")
    else:
        with tempfile.TemporaryDirectory() as folder:
            archive = args.archive or make_sleepy(Path(folder))
            os.environ["SECONDS_A_ROW"] = str(args.sleep)
            measure(archive, args.photos, args.seconds, args.turns, args.load)


if __name__ == "__main__":
    main()
