"""Which batchSize, maxBatchDelay, workers and threads answer most within a p99, measured on an archive itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from camserve.bench.load import RequestAddress, run_closed_loop
from camserve.bench.photos import encode_jpegs
from camserve.bench.repack import repack
from camserve.bench.report import BenchReport, Table
from camserve.bench.workloads import PHOTOS, WARM_UP_LOAD_SECONDS
from camserve.build.changes import change_config
from camserve.build.configure import configure_archive
from camserve.build.mar.pack import write_config
from camserve.build.mar.unpack import Contents, read_contents
from camserve.build.pairs import Pairs
from camserve.errors import CamserveError, ConfigError, first_line
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.serving.cores import count_cores
from camserve.values import Progress

SIZES, DELAYS = (1, 4, 8, 16), (1, 5, 10, 20)
USUAL_SIZE, USUAL_DELAY = 8, 10
LOADS = (1, 2, 4, 8, 16, 32)  # connections, each of which waits for its answer
HEAD = (
    *("batchSize", "maxBatchDelay ms", "workers", "threads", "answers a second", "p99 ms", "connections"),
    *("at most a second", "p99 ms then", "p99 ms of one connection"),
)
NEARLY_ALL = 0.9  # of the most answers a second: beyond the knee more connections wait longer and gain little
LOADED_SECONDS = 120.0  # within which every worker of a started server is READY


@dataclass(frozen=True)
class BatchingSetting:
    """How an archive is served."""

    batch_size: int
    delay: int  # milliseconds
    workers: int
    threads: int  # of each

    @property
    def pairs(self) -> Pairs:
        """The keys of `camserve configure`, with these values."""
        return [
            ("batchSize", str(self.batch_size)),
            ("maxBatchDelay", str(self.delay)),
            ("minWorkers", str(self.workers)),
            ("maxWorkers", str(self.workers)),
            ("runtime.threads", str(self.threads)),
        ]


@dataclass(frozen=True)
class LoadPoint:
    """What one setting gave to so many connections that each wait for their answers."""

    setting: BatchingSetting
    connections: int
    throughput: float  # answers a second
    p99: float  # milliseconds


def list_settings(cores: int) -> list[BatchingSetting]:
    """Return what is tried on so many cores: every size at the usual delay, every delay at the usual size.

    Each with one worker on all cores, two on half of them, and as many as there are cores.
    """
    queues = dict.fromkeys([*((size, USUAL_DELAY) for size in SIZES), *((USUAL_SIZE, delay) for delay in DELAYS)])
    workers = sorted({count for count in (1, 2, cores) if count <= cores})
    return [BatchingSetting(size, delay, count, cores // count) for count in workers for size, delay in queues]


def choose_best(points: Sequence[LoadPoint], latency_ms: int | None) -> LoadPoint | None:
    """Return the point of the most answers a second whose p99 keeps to ``latency_ms``; None: none does.

    Where that is None: the knee, the point of the least p99 among those that answer nearly the most.
    """
    if latency_ms is None:
        most = max(point.throughput for point in points)
        return min((point for point in points if point.throughput >= NEARLY_ALL * most), key=lambda point: point.p99)
    return max((point for point in points if point.p99 <= latency_ms), key=lambda point: point.throughput, default=None)


def measure_batching(
    archive: Path, settings: Sequence[BatchingSetting], connections: Sequence[int], seconds: float, report: Progress
) -> list[LoadPoint]:
    """Serve an archive under every setting, one server after the other; what fails is reported and left out.

    ConfigError: all fail.
    """
    photos = encode_jpegs(PHOTOS)
    points: list[LoadPoint] = []
    for setting in settings:
        report(f"{', '.join(f'{key}={value}' for key, value in setting.pairs)}")
        with tempfile.TemporaryDirectory(prefix="camserve-batching-") as name:
            changed = _change(archive, setting, Path(name))
            try:
                with Server([changed], Path(name) / "server", free_ports()) as server:
                    _wait_for_workers(server, setting.workers)
                    points += _measure(server, setting, photos, connections, seconds, report)
            except (CamserveError, OSError) as error:
                report(f"left out: {first_line(error)}")
    if not points:
        raise ConfigError(f"{archive} answers under no setting: camserve serve {archive} says why")
    return points


def _change(archive: Path, setting: BatchingSetting, folder: Path) -> Path:
    contents = read_contents(archive)

    def change(unpacked: Path) -> None:
        write_config(change_config(contents.config, setting.pairs), unpacked)

    return repack(archive, folder, change)


def _wait_for_workers(server: Server, count: int) -> None:
    (model,) = server.models
    deadline = time.monotonic() + LOADED_SECONDS
    while sum(worker["status"] == "READY" for worker in server.workers(model)) < count:
        if time.monotonic() > deadline:
            raise ConfigError(f"{count} workers were not READY within {LOADED_SECONDS:.0f} s")
        time.sleep(0.25)


def _measure(
    server: Server,
    setting: BatchingSetting,
    photos: Sequence[bytes],
    connections: Sequence[int],
    seconds: float,
    report: Progress,
) -> Iterator[LoadPoint]:
    (model,) = server.models
    client = RequestAddress(f"{server.inference.url}/predictions/{model}", server.inference.headers)
    run_closed_loop(client, photos, connections[-1], WARM_UP_LOAD_SECONDS)
    for count in connections:
        load = run_closed_loop(client, photos, count, seconds)
        if load.failed:
            report(f"{count} connections are left out: {load.failed} of their requests were refused")
            continue
        yield LoadPoint(setting, count, load.throughput, load.percentile(99))


def bench_batching(
    archive: Path, seconds: float, command: str, machine: dict[str, str], report: Progress
) -> BenchReport:
    """Measure an archive under all settings; the data are for ``write_best``. ConfigError: a server does not start."""
    contents = read_contents(archive)
    settings = list_settings(count_cores())
    points = measure_batching(archive, settings, LOADS, seconds, report)
    return make_batching_report(points, contents, command, machine)


def write_best(archive: Path, points: Sequence[LoadPoint], report: Progress) -> None:
    """Write the best setting into an archive, as `camserve configure` does. ConfigError: none is within the limit."""
    latency_ms = read_contents(archive).settings.runtime.latency_ms
    best = choose_best(points, latency_ms)
    if best is None:
        raise ConfigError(f"{_describe_none(points, latency_ms)}; nothing was written")
    changes = configure_archive(archive, archive, best.setting.pairs, report)
    report("; ".join(changes) if changes else "it is the setting that the archive has: nothing was written")


def _describe_none(points: Sequence[LoadPoint], latency_ms: int | None) -> str:
    least = min(point.p99 for point in points)
    return (
        f"no setting keeps its p99 within {latency_ms} ms; the least is {least:.0f} ms: state runtime.latency_ms anew"
    )


def make_batching_report(
    points: Sequence[LoadPoint], contents: Contents, command: str, machine: dict[str, str]
) -> BenchReport:
    """Return the choice, and every setting at its own best."""
    latency_ms = contents.settings.runtime.latency_ms
    if latency_ms is None:
        rule = f"the least p99 that still answers {NEARLY_ALL:.0%} of the most a second"
        said = f"{rule}, since runtime.latency_ms states none"
    else:
        rule = f"the most answers a second within a p99 of {latency_ms} ms"
        said = f"{rule}, which runtime.latency_ms states"
    by_setting: dict[BatchingSetting, list[LoadPoint]] = {}
    for point in points:
        by_setting.setdefault(point.setting, []).append(point)
    best = choose_best(points, latency_ms)
    no_choice = (_describe_none(points, latency_ms), *[""] * (len(HEAD) - 1))
    chosen = no_choice if best is None else _row(best, by_setting[best.setting])
    rows = [_row(choose_best(found, latency_ms), found) for found in by_setting.values()]
    tables = [
        Table(f"The choice: {said}", HEAD, [chosen]),
        Table(f"{contents.name}, explained: each setting at {rule}", HEAD, rows),
    ]
    return BenchReport("batching", command, machine, tables, [], list(points))


def _row(best: LoadPoint | None, points: Sequence[LoadPoint]) -> tuple[str, ...]:
    """Return the line of one setting; ``best`` is its point that is chosen, ``points`` are all of its own."""
    setting = points[0].setting
    most = max(points, key=lambda point: point.throughput)
    alone = next((f"{point.p99:.0f}" for point in points if point.connections == 1), "")
    of_best = ("none within it", "", "")
    if best is not None:
        of_best = (f"{best.throughput:.2f}", f"{best.p99:.0f}", str(best.connections))
    said = (str(setting.batch_size), str(setting.delay), str(setting.workers), str(setting.threads))
    return (*said, *of_best, f"{most.throughput:.2f}", f"{most.p99:.0f}", alone)
