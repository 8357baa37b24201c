"""A run on all cores: every process loads the archive and takes one shard after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import psutil

from camserve.build.mar.unpack import Contents
from camserve.bulk.reading import read_ahead
from camserve.bulk.rows import Ask, RunStopped
from camserve.bulk.shards import Shard, Tally, write_shard
from camserve.errors import CamserveError
from camserve.serving.cores import count_cores
from camserve.settings import Settings
from camserve.values import Progress

BYTES_OF_A_WORKER = 1_500_000_000  # of memory: torch, a network, and the pictures of a pass
RESTARTS = 3  # in a run, of workers that were ended from outside


@dataclass(frozen=True)
class Work:
    """What a worker does with every shard."""

    folder: Path  # of the unpacked archive
    contents: Contents
    options: Mapping[str, str]
    grid: str
    threads: int  # of torch, in each worker

    @property
    def most_bytes(self) -> int:
        """The limit of a picture."""
        return self.contents.settings.limits.max_bytes


def count_workers(settings: Settings) -> int:
    """Return how many workers use all cores, as far as there is memory for them, or the one GPU."""
    import torch

    if torch.cuda.is_available():
        return 1
    by_cores = count_cores() // (settings.runtime.threads or 1)
    return max(1, min(by_cores, psutil.virtual_memory().available // BYTES_OF_A_WORKER))


def run_workers(shards: Sequence[Shard], work: Work, workers: int, report: Progress) -> Iterator[Tally]:
    """Write all shards, in as many processes, and yield what became of each.

    RunStopped: a worker cannot load the archive, or workers are ended again and again.
    """
    left = {shard.path: shard for shard in shards}
    for _ in range(RESTARTS + 1):
        try:
            for shard, tally in _run_once(list(left.values()), work, min(workers, len(left))):
                del left[shard.path]
                yield tally
        except BrokenProcessPool:
            report(f"a worker was ended; {len(left)} shards are left, and go on in new ones")
            continue
        return
    raise RunStopped(f"workers are ended again and again: is there memory for {workers}? Give fewer: --workers N")


def _run_once(shards: Sequence[Shard], work: Work, workers: int) -> Iterator[tuple[Shard, Tally]]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(workers, context, _begin, (work,))
    try:
        futures = {pool.submit(_write, shard): shard for shard in shards}
        for future in as_completed(futures):
            result = future.result()
            if isinstance(result, str):
                raise RunStopped(result)
            yield futures[future], result
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class _Worker:
    """This process, where it is a worker."""

    work: Work | None = None
    ask: Ask | None = None


_worker = _Worker()


def _begin(work: Work) -> None:
    """Prepare this process: it ends with its parent, and at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(work.threads)  # before torch is imported
    _worker.work = work


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _write(shard: Shard) -> Tally | str:
    """Return what became of a shard, or the line that says why nothing can be asked."""
    work = _worker.work
    assert work is not None
    try:
        if _worker.ask is None:
            _worker.ask = load_asker(work.folder, work.contents, work.options, work.threads)
        return write_shard(shard, _worker.ask(read_ahead(shard.photos, work.most_bytes)), work.grid)
    except CamserveError as error:
        return str(error)


def load_asker(folder: Path, contents: Contents, options: Mapping[str, str], threads: int) -> Ask:
    """Return what asks an unpacked archive, with so many threads of torch. ConfigError: it does not load."""
    import torch

    from camserve.build.mar.unpack import load_unpacked
    from camserve.bulk.archive import ArchiveAsker
    from camserve.serving.heap import keep_heap, limit_heap, share_heap

    torch.set_num_threads(threads)
    share_heap()
    pipeline = load_unpacked(folder, contents)
    keep_heap()
    limit_heap(BYTES_OF_A_WORKER)
    return ArchiveAsker(pipeline, options)
