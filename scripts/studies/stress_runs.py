"""Bounded chaos against a real server on loopback: kills, version swaps, overload, and a search for leaks.

Every loop counts its requests; only processes of servers started here are killed, by their process ids.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
import torch

from camserve.build.archive import build_archive
from camserve.build.recipe import Recipe, load_recipe
from camserve.build.sources import find_file
from camserve.errors import CamserveError
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.settings import InputSpec

RECIPE = Path("config/models/imagenet.yaml")
REPORT = Path("docs/reliability.md")
MODEL = "imagenet"
THREADS = 16
BATCH = 8
KILLS = 5
RECOVERY_GRACE = 5.0  # seconds beyond the time that loading takes
DRAIN_SECONDS = 20
GROWTH_LIMIT = 20_000_000  # bytes
WARM_UP = 1_500  # requests; the allocator takes about a thousand to reach its size
SAMPLES = 20
FLOOD = 200  # requests at once, about three times the queue
LEAKED = 1_000_000  # bytes a forward pass, in the planted leak

LEAKY = f"""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, 4)
        self.head = nn.Linear(8, 2)
        self.kept = []

    def forward(self, pixels):
        self.kept.append(torch.ones({LEAKED // 4}))
        return self.head(self.features(pixels).mean((2, 3)))
"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    required: str
    seen: str
    holds: bool


@dataclass(frozen=True)
class Load:
    """Requests of every kind: explained, plain, drawn, and refused."""

    server: Server
    model: str
    photo: bytes

    def ask(self, number: int, mixed: bool = True) -> int:
        """Send request ``number``; return its status, or 0 where none came."""
        kinds: Sequence[tuple[bytes, dict[str, str]]] = (
            (self.photo, {"explain": "false"}),
            (self.photo, {}),
            (self.photo, {"target": "top:2", "format": "overlay"}),
            (self.photo[: len(self.photo) // 2], {}),
            (self.photo, {"target": "no such class"}),
        )
        body, options = kinds[number % len(kinds) if mixed else number % 2]
        side = self.server.inference
        url = f"{side.url}/predictions/{self.model}"
        try:
            files = {"data": body}
            return requests.post(url, headers=side.headers, files=files, data=options, timeout=120).status_code
        except requests.RequestException:
            return 0

    def send(self, numbers: Iterable[int], threads: int = THREADS, mixed: bool = True) -> Counter[int]:
        """Send many requests from several threads; count the statuses."""
        with ThreadPoolExecutor(threads) as pool:
            return Counter(pool.map(lambda number: self.ask(number, mixed), numbers))

    def worker(self) -> psutil.Process | None:
        """Return the first worker that is READY, and alive: TorchServe is the last to know."""
        ready = [each for each in self.server.workers(self.model) if each["status"] == "READY"]
        try:
            return psutil.Process(int(ready[0]["pid"])) if ready else None
        except psutil.NoSuchProcess:
            return None


def kills(load: Load, count: int) -> Row:
    """SIGKILL the worker under load, again and again."""
    load_time = _load_seconds(load.server)
    lost, seconds = [], []
    for _ in range(KILLS):
        worker = load.worker()
        assert worker is not None
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(load.send, range(count), THREADS, False)
            time.sleep(0.5)
            worker.kill()
            start = time.monotonic()
            while (now := load.worker()) is None or now.pid == worker.pid:
                time.sleep(0.1)
            seconds.append(time.monotonic() - start)
            lost.append(count - sending.result()[200])
    holds = max(lost) <= BATCH and max(seconds) <= load_time + RECOVERY_GRACE
    return Row(
        f"SIGKILL of the worker under load, {KILLS} times in {KILLS * count} requests",
        f"at most the batch in flight ({BATCH}) lost; back within load time + {RECOVERY_GRACE:.0f} s",
        f"lost {', '.join(map(str, lost))}; back after at most {max(seconds):.1f} s, loading takes {load_time:.1f} s",
        holds,
    )


def _load_seconds(server: Server) -> float:
    """Return how long the first worker took to load its model; later ones are counted from its start."""
    lines = requests.get(server.metrics_url, timeout=10).text.splitlines()
    return max(float(line.split()[-1]) for line in lines if line.startswith("WorkerLoadTime{")) / 1000


def swaps(load: Load, count: int, second: str) -> Row:
    """Replace version 1 by version 2 and version 2 by version 1 while requests come in."""
    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(_there_and_back, load, second)
        statuses: Counter[int] = Counter()
        while not (replacing.done() and statuses.total() >= count) and statuses.total() < 20 * count:
            statuses += load.send(range(100), THREADS, False)
        replacing.result()
    lost = statuses.total() - statuses[200]
    return Row(f"version 1 -> 2 -> 1 under load, {statuses.total()} requests", "none lost", f"{lost} lost", lost == 0)


def _there_and_back(load: Load, second: str) -> None:
    _replace(load, second, "1.0", "2.0")
    _replace(load, load.server.models[load.model], "2.0", "1.0")


def _replace(load: Load, archive: str, old: str, new: str) -> None:
    """Register, redirect, drain, remove: TorchServe never answers what a removed version still holds."""
    side = load.server.management

    def call(method: str, path: str) -> requests.Response:
        answer = requests.request(method, f"{side.url}/models{path}", headers=side.headers, timeout=180)
        answer.raise_for_status()
        return answer

    call("POST", f"?url={archive}&initial_workers=1&synchronous=true")
    call("PUT", f"/{load.model}/{new}/set-default")
    for _ in range(DRAIN_SECONDS):
        if call("GET", f"/{load.model}/{old}").json()[0]["jobQueueStatus"]["pendingRequests"] == 0:
            break
        time.sleep(1)
    time.sleep(DRAIN_SECONDS)  # for the batch that the worker already took
    call("DELETE", f"/{load.model}/{old}")


def overload(load: Load, count: int) -> Row:
    """Ask far more at once than the queue holds."""
    statuses = load.send(range(count), FLOOD, False)
    after = load.send(range(20), 1, False)
    told = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
    return Row(
        f"{count} requests, {FLOOD} at once",
        "every one answered 200 or 503, and all well afterwards",
        told,
        set(statuses) <= {200, 503} and after[200] == 20,
    )


def growth(load: Load, count: int) -> int:
    """Return how many bytes the worker has grown over ``count`` mixed requests, after a warm-up.

    Held memory goes up and down with the size of batches; what leaks raises the lowest of it. So the lowest
    of the last quarter of the samples is compared with that of the first.
    """
    load.send(range(WARM_UP))
    worker = load.worker()
    assert worker is not None
    held = []
    for _ in range(SAMPLES):
        load.send(range(max(1, count // SAMPLES)))
        held.append(worker.memory_info().rss)
    quarter = SAMPLES // 4
    return int(min(held[-quarter:]) - min(held[:quarter]))


def no_leak(load: Load, count: int) -> Row:
    """Search for a leak where there should be none."""
    grown = growth(load, count)
    return Row(
        f"{count} mixed requests (explained, plain, drawn, refused)",
        f"the worker grows by at most {GROWTH_LIMIT // 1_000_000} MB after the warm-up",
        f"{grown / 1e6:+.1f} MB",
        grown <= GROWTH_LIMIT,
    )


def planted_leak(load: Load, count: int) -> Row:
    """Search for a leak that is there: the check of the check."""
    grown = growth(load, count)
    return Row(
        f"the same check on a network that keeps {LEAKED // 1000} kB a forward pass, {count} requests",
        "caught",
        f"{grown / 1e6:+.1f} MB: {'caught' if grown > GROWTH_LIMIT else 'missed'}",
        grown > GROWTH_LIMIT,
    )


def run(scale: float, say: Callable[[str], None]) -> list[Row]:
    """Run every scenario at ``scale`` times its full size. CamserveError: a server does not start."""

    def size(full: int) -> int:
        return max(BATCH, round(full * scale))

    photo = find_file("package://skimage/data/coffee.png").read_bytes()
    rows = []

    def done(row: Row) -> None:
        say(f"{'holds' if row.holds else 'FAILS'}  {row.what}: {row.seen}")
        rows.append(row)

    with tempfile.TemporaryDirectory(prefix="camserve-stress-") as name:
        folder = Path(name)
        recipe = load_recipe(RECIPE)
        first = build_archive(recipe, folder / "store", say)
        second = build_archive(dataclasses.replace(recipe, version="2.0"), folder / "second", say)
        second = second.rename(first.with_name("second.mar"))
        with Server([first], folder / "server", free_ports(19080), enable_model_api="true") as server:
            load = Load(server, MODEL, photo)
            done(no_leak(load, size(5_000)))
            done(overload(load, size(2_000)))
            done(kills(load, size(400)))
            done(swaps(load, size(2_000), second.name))
        leaky = build_archive(_leaky(folder / "leaky"), folder / "leaky" / "store", say)
        with Server([leaky], folder / "leaky" / "server", free_ports(19280)) as server:
            done(planted_leak(Load(server, "leaky", photo), 1_000))
    return rows


def _leaky(folder: Path) -> Recipe:
    folder.mkdir()
    (folder / "net.py").write_text(LEAKY, encoding="utf-8")
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(LEAKY, scope)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    (folder / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    return Recipe(
        name="leaky",
        weights=str(folder / "net.pt"),
        factory="Net",
        model_file=str(folder / "net.py"),
        labels=str(folder / "labels.txt"),
        preprocess=InputSpec(resize=64, crop=64),
        layer="features",
    )


def table(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table."""
    lines = ["| what | required | seen | holds |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.what} | {row.required} | {row.seen} | {'yes' if row.holds else '**no**'} |" for row in rows]
    return "\n".join(lines)


def write_report(rows: Sequence[Row], path: Path) -> None:
    """Put the table into the report in the place of the last one."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition("<!-- stress -->\n")
    tail = rest.partition("<!-- /stress -->")[2]
    path.write_text(f"{head}<!-- stress -->\n{table(rows)}\n<!-- /stress -->{tail}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and keep it if asked; the exit status is 1 where something does not hold."""
    parser = argparse.ArgumentParser(prog="scripts/studies/stress", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of requests")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {REPORT}")
    asked = parser.parse_args(arguments)
    try:
        rows = run(asked.scale, lambda line: print(line, file=sys.stderr, flush=True))
    except CamserveError as error:
        print(f"camserve: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    if asked.write:
        write_report(rows, REPORT)
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
