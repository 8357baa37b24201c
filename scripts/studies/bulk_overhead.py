"""Compare what a run of camserve explain takes with what the engine alone takes, decoding included, in CPU seconds.

Run from a clone: .venv/bin/python scripts/studies/bulk_overhead.py ARCHIVE PHOTOS
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from camserve.build.mar.unpack import open_archive
from camserve.bulk.archive import ArchiveAsker
from camserve.bulk.reading import read_ahead
from camserve.bulk.shards import encode_shard
from camserve.bulk.sources import list_photos
from camserve.serving.heap import keep_heap
from camserve.values import RawRequest

OPTIONS = {"explain": "true", "format": "grid"}
PICTURES = 192


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process during some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure both in turns and print the median share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("photos", help="a folder")
    parser.add_argument("--turns", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    photos = list_photos([args.photos], {})[:PICTURES]
    shares = []
    with open_archive(args.archive) as engine, open_archive(args.archive) as asked:
        keep_heap()  # as a worker does
        ask, size = ArchiveAsker(asked, OPTIONS), engine.runner.rows_at_once
        requests = [RawRequest(Path(photo.path).read_bytes(), OPTIONS, request_id=photo.path) for photo in photos]
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        for _ in range(args.turns):
            alone = cpu_seconds(lambda: [engine.complete(part, engine.decode(part)) for part in parts])
            run = cpu_seconds(lambda: encode_shard(ask(read_ahead(photos)), "uint8"))
            shares.append(alone / run)
            print(f"{1000 * alone / len(photos):.1f} ms alone, {1000 * run / len(photos):.1f} ms in a run", flush=True)
    print(f"median share of the engine: {statistics.median(shares):.3f}")


if __name__ == "__main__":
    main()
