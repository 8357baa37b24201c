"""A run on Ray: a task makes one shard, and this process writes it."""

from __future__ import annotations

import io
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from camserve import __version__
from camserve.build.mar.unpack import read_contents
from camserve.bulk.reading import UNREADABLE, read_ahead
from camserve.bulk.remote import is_remote
from camserve.bulk.rows import Ask, Row, RunStopped
from camserve.bulk.shards import Shard, Tally, encode_shard, keep_shard
from camserve.bulk.silence import SECONDS_BETWEEN_LOOKS, Silence, Tasks, describe_tasks, living_nodes
from camserve.bulk.sources import Photo
from camserve.bulk.workers import BYTES_OF_A_WORKER, RESTARTS, load_asker
from camserve.errors import CamserveError, ConfigError, first_line
from camserve.operate.ray_here import any_ray, share
from camserve.operate.unpack_once import unpack_once
from camserve.serving.cores import count_cores
from camserve.values import Progress


@dataclass(frozen=True)
class RemoteWork:
    """What a worker does with every shard."""

    archive: Sequence[Any]  # one reference to the bytes of a .mar; in a sequence Ray does not fetch it for each task
    options: Mapping[str, str]
    grid: str
    threads: int  # of torch
    folder: str  # where relative paths begin
    version: str  # of camserve


class MadeShard(NamedTuple):
    """A shard as a worker made it."""

    content: bytes
    tally: Tally
    unreadable: Sequence[str]  # paths on the worker's own file systems
    machine: str


def run_on_ray(
    shards: Sequence[Shard], archive: Path, options: Mapping[str, str], grid: str, workers: int | None, report: Progress
) -> Iterator[Tally]:
    """Write all shards, and yield what became of each.

    RunStopped: a worker cannot load the archive, has not the pictures, or a shard ends its workers again and again.
    """
    with any_ray(count_cores(), log_to_driver=False):
        import ray

        nodes = living_nodes()
        tasks = plan_tasks(nodes, read_contents(archive).settings.runtime.threads, workers, len(shards))
        if tasks.workers > tasks.count_at_once(nodes):
            report(f"not all of {tasks.workers} workers run at once: {describe_tasks(tasks, nodes)}")
        work = RemoteWork([ray.put(archive.read_bytes())], options, grid, tasks.cores, str(Path.cwd()), __version__)
        # Retries are counted and reported here. max_calls: Ray would start a process for each task on a GPU.
        task = ray.remote(num_cpus=tasks.cores, num_gpus=tasks.gpus, max_retries=0, max_calls=0)(make_shard)
        silence = Silence(archive.name, tasks, report)

        def start(shard: Shard) -> Any:
            return task.remote(shard.photos, work)

        for shard, made in _run_tasks(shards, start, tasks.workers, silence, report):
            check_seen(made)
            keep_shard(shard.path, made.content)
            yield made.tally


def plan_tasks(nodes: Sequence[Mapping[str, float]], threads: int | None, workers: int | None, shards: int) -> Tasks:
    """Return how a run is spread over machines, given by their resources; ``threads`` is what an archive names.

    What a task takes fits on the largest machine that it can run on, so that each runs at some time.
    """
    nodes = [node for node in nodes if node.get("GPU")] or nodes
    cores, gpus, memory = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU", "memory"))
    if workers is None:
        by_cores = min(cores // (threads or 1), memory // BYTES_OF_A_WORKER)
        workers = max(1, int(gpus or by_cores))
    workers = min(workers, shards)
    most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    return Tasks(workers, max(1, int(min(cores // workers, most))), min(1.0, share(gpus, workers)))


def _run_tasks(
    shards: Sequence[Shard], start: Any, workers: int, silence: Silence, report: Progress
) -> Iterator[tuple[Shard, MadeShard]]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    waiting, ended = iter(shards), Counter[Path]()
    running = {start(shard): shard for shard in islice(waiting, 2 * workers)}  # a worker finds its next task at once
    while running:
        done, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
        if not done:
            silence.look()
            continue
        shard = running.pop(done[0])
        try:
            made = ray.get(done[0])
        except RayTaskError as error:
            raise RunStopped(f"a worker failed: {first_line(error.cause)}") from None
        except RayError as error:  # its process, its machine, or what it had made is gone
            ended[shard.path] += 1
            if ended[shard.path] > RESTARTS:
                raise RunStopped(f"a shard ended {RESTARTS + 1} workers: {first_line(error)}") from None
            report("a worker was ended; its shard goes to another")
            running[start(shard)] = shard
            continue
        silence.end()
        if isinstance(made, str):
            raise RunStopped(made)
        running.update((start(shard), shard) for shard in islice(waiting, 1))
        yield shard, made


def check_seen(made: MadeShard) -> None:
    """RunStopped: the worker does not reach a picture that this process reads."""
    for path in made.unreadable:
        if os.path.isfile(path) and os.access(path, os.R_OK):
            raise RunStopped(
                f"{path} is not to be read on {made.machine}: let pictures lie where all machines of the cluster read "
                "them, in one shared folder or at s3://"
            )


@dataclass
class _Worker:
    """This process, where it is a worker: what it has loaded."""

    ask: Ask | None = None
    most_bytes: int = 0


_worker = _Worker()


def make_shard(photos: Sequence[Photo], work: RemoteWork) -> MadeShard | str:
    """Return a shard, or the line that says why nothing can be asked."""
    unreadable: list[str] = []
    try:
        ask = _ask_of(work)
        rows = _watched(ask(read_ahead(photos, _worker.most_bytes)), unreadable)
        content, tally = encode_shard(rows, work.grid)
    except CamserveError as error:
        return str(error)
    return MadeShard(content, tally, unreadable, platform.node())


def _ask_of(work: RemoteWork) -> Ask:
    if _worker.ask is not None:
        return _worker.ask
    if work.version != __version__:
        raise ConfigError(
            f"{platform.node()} has camserve {__version__}, and this run {work.version}: install that one"
        )
    if os.path.isdir(work.folder):
        os.chdir(work.folder)
    with tempfile.NamedTemporaryFile(prefix="camserve-", suffix=".mar") as archive:
        archive.write(content := _fetch(work.archive[0]))
        archive.flush()
        contents = read_contents(Path(archive.name))
    folder = unpack_once(io.BytesIO(content))
    _worker.most_bytes = contents.settings.limits.max_bytes
    _worker.ask = load_asker(folder, contents, work.options, work.threads)
    return _worker.ask


def _fetch(archive: Any) -> bytes:
    import ray

    content: bytes = ray.get(archive)
    return content


def _watched(rows: Iterable[Row], unreadable: list[str]) -> Iterator[Row]:
    for row in rows:
        if row.error is not None and row.error["code"] == UNREADABLE and not is_remote(row.photo.path):
            unreadable.append(row.photo.path)
        yield row
