"""Compare the rate of camserve explain with that of a peer at the same time, each on a core of its own.

The run reads its photos from a folder and writes shards; the peer has them in memory. Both decode. They change cores
every turn, so that a busy neighbour of the machine slows both. The peer is the run's own engine, or, of an archive in
mode openvino, OpenVINO's prediction alone: no explanation, no answer, and not even the layers after the target layer.

Run from a clone: .venv/bin/python scripts/studies/bulk_overhead.py ARCHIVE PHOTOS [--peer openvino]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from multiprocessing import Event, Process, SimpleQueue
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import cast

import numpy as np
import psutil
import torch

from camserve.build.mar.unpack import open_archive, read_contents
from camserve.bulk.sources import list_photos
from camserve.drift.run_records import SHARDS
from camserve.fast.split import Split
from camserve.intake.preprocess import normalise
from camserve.serving.heap import keep_heap, share_heap
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest, Request

Batch = list[RawRequest]
Batches = list[tuple[float, int]]  # when each ended, in seconds, and its pictures
OPTIONS = {"explain": "true", "format": "grid"}
SHARD_SIZE = 100  # pictures: fewer than usual, so that writing them costs more than usual
SHARDS_A_TURN = 20


def explain(engine: Pipeline, batch: Batch) -> None:
    """Answer a batch as a run does."""
    engine.complete(batch, engine.decode(batch))


def predict_in_openvino(engine: Pipeline, batch: Batch) -> None:
    """Run the network up to its target layer on a batch, and nothing else."""
    rows = [request.pixels for request in engine.decode(batch) if isinstance(request, Request)]
    cast(Split, engine.network).trunk(normalise(rows, engine.settings.input, torch.device("cpu")))


PEERS = {"engine": explain, "openvino": predict_in_openvino}


def run_peer(core: int, archive: Path, photos: list[Path], peer: str, over: Signal, ends: SimpleQueue[Batches]) -> None:
    """Work on the photos one batch after the other until it is over; put when each ended, and its size."""
    psutil.Process().cpu_affinity([core])
    torch.set_num_threads(1)
    share_heap()
    with open_archive(archive) as engine:
        keep_heap()  # as a worker of a run does
        requests = [RawRequest(photo.read_bytes(), OPTIONS) for photo in photos]
        size = engine.runner.rows_at_once
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        ended: Batches = []
        for part in itertools.cycle(parts):
            PEERS[peer](engine, part)
            ended.append((time.time(), len(part)))
            if over.is_set():
                break
    ends.put(ended)


def run_turn(archive: Path, photos: Path, peer: str, cores: tuple[int, int], folder: Path) -> tuple[float, float]:
    """Return the pictures a second of the peer and of the run, while both were at work."""
    over = Event()
    ends: SimpleQueue[Batches] = SimpleQueue()
    files = sorted(Path(photo.path) for photo in list_photos([str(photos)], {}))
    Process(target=run_peer, args=(cores[0], archive, files[:500], peer, over, ends)).start()
    command = [Path(sys.executable).parent / "camserve", "explain", photos, "--archive", archive, "--out", folder]
    command += ["--workers", 1, "--save", "parquet", "--shard-size", SHARD_SIZE]
    with open(folder.with_suffix(".log"), "w") as log:
        run = psutil.Popen([*map(str, command)], stdout=log, stderr=log)
        run.cpu_affinity([cores[1]])
        if run.wait() != 0:
            raise SystemExit(Path(log.name).read_text())
    over.set()
    return rates(ends.get(), sorted(shard.stat().st_mtime for shard in (folder / SHARDS).iterdir()))


def rates(batches: Batches, shards: list[float]) -> tuple[float, float]:
    """Return the pictures a second of batches and of shards, by their ends, from the first common shard to the last."""
    ends, sizes = np.array(batches).T
    common = [end for end in shards if ends[0] < end < ends[-1]]
    first, last = np.interp([common[0], common[-1]], ends, np.cumsum(sizes))
    seconds = common[-1] - common[0]
    return (last - first) / seconds, SHARD_SIZE * (len(common) - 1) / seconds


def main() -> None:
    """Measure in turns and print the median share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--peer", choices=PEERS, default="engine")
    parser.add_argument("--turns", type=int, default=6)
    args = parser.parse_args()
    if args.peer == "openvino" and read_contents(args.archive).settings.runtime.mode != "openvino":
        parser.error(f"{args.archive} is not in mode openvino")
    cores = psutil.Process().cpu_affinity()[:2]
    shares = []
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch, "photos")
        photos.mkdir()
        found = itertools.cycle(list_photos([str(args.photos)], {}))
        for number in range(SHARD_SIZE * SHARDS_A_TURN):
            (photos / f"{number:06d}.jpg").symlink_to(Path(next(found).path).resolve())
        for turn in range(args.turns):
            placed = (cores[turn % 2], cores[1 - turn % 2])
            alone, run = run_turn(args.archive, photos, args.peer, placed, Path(scratch, f"{turn}"))
            shares.append(run / alone)
            print(f"{alone:.1f} pictures/s by {args.peer}, {run:.1f} in a run: {run / alone:.3f}", flush=True)
    print(f"median share of {args.peer}: {statistics.median(shares):.3f}")


if __name__ == "__main__":
    main()
