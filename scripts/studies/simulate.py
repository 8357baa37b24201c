"""Compare a simulation with two measured replicas under Ray Serve, or simulate scenarios that nobody measured.

Each turn measures the seconds of batches at half the rate, and what a lone request takes beside its batch; simulates
the full rate from these; and measures it. All within minutes, since the machine may be noisy.
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
from pathlib import Path
from typing import NamedTuple

from camserve.asgi.batches import BatchRules, read_rules
from camserve.bench.load import Client, draw_arrivals
from camserve.build.mar.unpack import read_contents
from camserve.operate.ports import free_ports
from queueing import Result, Scenario, measured_service, simulate

COMMAND = [sys.executable, "-c", "import sys; from camserve.cli import main; sys.exit(main(sys.argv[1:]))"]
LONE = 20  # requests one after the other
PATIENCE = 120.0  # seconds for an answer
DAY = 1e9 / 86_400  # requests a second


class Answered(NamedTuple):
    """One answer to a measured request."""

    seconds: float
    status: int
    stages: tuple[float, ...]  # seconds, the same for all rows of a batch


async def ask(client: Client, photo: bytes, since: float) -> Answered:
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
    return Answered(seconds, int(head.split()[1]), stages)


async def ask_at(client: Client, photos: Sequence[bytes], instants: Sequence[float]) -> list[Answered]:
    """Return the answers to requests that are sent at these instants, whether or not earlier ones are answered."""
    start, under_way = time.perf_counter(), []
    for number, instant in enumerate(instants):
        await asyncio.sleep(max(0.0, start + instant - time.perf_counter()))
        under_way.append(asyncio.create_task(ask(client, photos[number % len(photos)], start + instant)))
    return await asyncio.gather(*under_way)


async def ask_alone(client: Client, photos: Sequence[bytes]) -> list[Answered]:
    """Return the answers to requests one after the other."""
    return [await ask(client, photos[number % len(photos)], time.perf_counter()) for number in range(LONE)]


async def find_rate(client: Client, photos: Sequence[bytes], seconds: float) -> float:
    """Return how many answers a second 16 clients get."""
    start, done = time.perf_counter(), 0

    async def keep_asking() -> None:
        nonlocal done
        while time.perf_counter() < start + seconds:
            await ask(client, photos[done % len(photos)], 0.0)
            done += 1

    await asyncio.gather(*(keep_asking() for _ in range(16)))
    return done / (time.perf_counter() - start)


def batch_seconds(answers: Sequence[Answered]) -> dict[int, list[float]]:
    """Return the seconds of batches by their size: rows with the same stages were one batch."""
    rows: dict[tuple[float, ...], int] = defaultdict(int)
    for answer in answers:
        rows[answer.stages] += 1
    found: dict[int, list[float]] = defaultdict(list)
    for stages, size in rows.items():
        found[size].append(sum(stages))
    return dict(found)


def predict(
    rate: float, seconds: float, rules: BatchRules, calm: Sequence[Answered], lone: Sequence[Answered]
) -> Result:
    """Return the simulated answers of two replicas, each with the time of a lone request beside its batch."""
    beside = [max(0.0, answer.seconds - rules.delay - sum(answer.stages)) for answer in lone]
    scenario = Scenario(rate, 20 * seconds, 2, rules.size, rules.delay, rules.waiting)
    result, source = simulate(scenario, measured_service(batch_seconds(calm))), random.Random(1)
    result.latencies = [latency + source.choice(beside) for latency in result.latencies]
    return result


def compare(
    archive: Path, photos: Sequence[bytes], url: str, token: str, seconds: float, turns: int, load: float
) -> None:
    """Print the turns, and the median error of the simulated p99."""
    client = Client(url, {"Authorization": f"Bearer {token}", "X-Camserve-Details": "timing"})
    rules, errors = read_rules(read_contents(archive).config), []
    asyncio.run(ask_alone(client, photos))  # connections, caches
    print(
        "| requests/s | p50 measured | simulated | p99 measured | simulated | error of p99 |\n|---|---|---|---|---|---|"
    )
    for _ in range(turns):
        rate = load * asyncio.run(find_rate(client, photos, seconds / 4))
        lone = asyncio.run(ask_alone(client, photos))
        calm = asyncio.run(ask_at(client, photos, draw_arrivals(rate / 2, seconds)))
        real = [
            one.seconds
            for one in asyncio.run(ask_at(client, photos, draw_arrivals(rate, seconds)))
            if one.status == 200
        ]
        found = predict(rate, seconds, rules, calm, lone)
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


def what_if(service_ms: float) -> None:
    """Print 10^9 requests a day on so many replicas of one core, with and without failures."""
    print("| replicas | load | failures of a replica | p50 | p99 | refused | lost |\n|---|---|---|---|---|---|---|")
    for load in (0.95, 0.8, 0.6):
        for hours in (0, 24, 1):
            replicas = round(DAY * service_ms / 1000 / load)
            failures = 1 / (3600 * hours) if hours else 0.0
            scenario = Scenario(DAY, 60, replicas, batch_size=1, delay=0.0, failures=failures, start=60.0)
            found = simulate(scenario, lambda size, source: service_ms / 1000 * size * source.uniform(0.8, 1.2))
            total = len(found.latencies) + found.refused + found.lost
            times = " | ".join(f"{1000 * found.percentile(percent):.0f} ms" for percent in (50, 99))
            often = f"one in {hours} h" if hours else "none"
            shares = f"{found.refused / total:.2%} | {found.lost / total:.4%}"
            print(f"| {replicas} | {load:.0%} | {often} | {times} | {shares} |", flush=True)


def main() -> None:
    """Measure, or say what if."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?", help="of two workers: --set serving.minWorkers=2")
    parser.add_argument("photos", type=Path, nargs="?", help="a folder")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--load", type=float, default=0.5, help="of what 16 clients get")
    parser.add_argument("--what-if", type=float, metavar="MS", help="10^9 a day at so many milliseconds of a core")
    args = parser.parse_args()
    if args.what_if:
        what_if(args.what_if)
    elif args.archive and args.photos:
        measure(args.archive, args.photos, args.seconds, args.turns, args.load)
    else:
        parser.error("name an archive and a folder of photos, or --what-if MS")


if __name__ == "__main__":
    main()
