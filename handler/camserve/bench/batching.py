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
HEAD = ("batchSize", "maxBatchDelay ms", "workers", "threads", "answers a second", "p99 ms", "connections")
TIMES_LEAST = 2.0  # the least p99 that was measured: what is kept to where an archive states none
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


def find_limit(points: Sequence[LoadPoint], latency_ms: int | None) -> float:
    """Return the p99 in milliseconds to keep to: that which is stated, or twice the least that was measured."""
    return TIMES_LEAST * min(point.p99 for point in points) if latency_ms is None else float(latency_ms)


def choose_best(points: Sequence[LoadPoint], limit: float) -> LoadPoint | None:
    """Return the point of the largest throughput whose p99 keeps to ``limit`` milliseconds; None: none does."""
    return max((point for point in points if point.p99 <= limit), key=lambda point: point.throughput, default=None)


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
    limit = find_limit(points, read_contents(archive).settings.runtime.latency_ms)
    best = choose_best(points, limit)
    if best is None:
        raise ConfigError(f"{_describe_none(points, limit)}; nothing was written")
    changes = configure_archive(archive, archive, best.setting.pairs, report)
    report("; ".join(changes) if changes else "it is the setting that the archive has: nothing was written")


def _describe_none(points: Sequence[LoadPoint], limit: float) -> str:
    least = min(point.p99 for point in points)
    return f"no setting keeps its p99 within {limit:.0f} ms; the least is {least:.0f} ms: state runtime.latency_ms anew"


def make_batching_report(
    points: Sequence[LoadPoint], contents: Contents, command: str, machine: dict[str, str]
) -> BenchReport:
    """Return the best throughput of every setting within the limit, the choice, and all that was measured."""
    stated = contents.settings.runtime.latency_ms
    limit = find_limit(points, stated)
    settings = dict.fromkeys(point.setting for point in points)
    rows = [_row(setting, [point for point in points if point.setting == setting], limit) for setting in settings]
    best = choose_best(points, limit)
    said = "which runtime.latency_ms states" if stated else "twice the least, since runtime.latency_ms states none"
    chosen = Table(
        f"The choice: the most answers a second within a p99 of {limit:.0f} ms, {said}",
        HEAD,
        [
            (_describe_none(points, limit), *[""] * (len(HEAD) - 1))
            if best is None
            else _row(best.setting, [best], limit)
        ],
    )
    measured = Table(f"{contents.name}, explained: each setting at its best within a p99 of {limit:.0f} ms", HEAD, rows)
    return BenchReport("batching", command, machine, [chosen, measured], [], list(points))


def _row(setting: BatchingSetting, points: Sequence[LoadPoint], limit: float) -> tuple[str, ...]:
    said = (str(setting.batch_size), str(setting.delay), str(setting.workers), str(setting.threads))
    best = choose_best(points, limit)
    if best is None:
        return (*said, "none within it", f"{min(point.p99 for point in points):.0f}", "")
    return (*said, f"{best.throughput:.2f}", f"{best.p99:.0f}", str(best.connections))
