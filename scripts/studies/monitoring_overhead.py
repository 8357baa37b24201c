"""What monitoring costs a request: the same photos through the same archive, with it and without, in pairs.

    .venv/bin/python scripts/studies/monitoring_overhead.py N.mar --images DIR [--batch 8] [--rounds 2000]

N.mar needs a baseline (camserve baseline). Metrics are formatted as TorchServe's are, and go to /dev/null.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from camserve.build.baseline.photos import find_images
from camserve.build.mar.unpack import open_archive
from camserve.monitor.counters import Counters
from camserve.monitor.recorder import Finished
from camserve.monitor.totals import KEPT
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest


class NullSink:
    """A sink that writes a line for each count, as TorchServe's metrics do."""

    def __init__(self) -> None:
        """Open /dev/null."""
        self.out = open("/dev/null", "w")  # noqa: SIM115 (as long as the process)

    def count(self, metric: str, labels: Sequence[str], amount: float) -> None:
        """Write one line."""
        self.out.write(f"[METRICS]{metric}.Count:{amount}|#{','.join(labels)}|#type:COUNTER|#hostname:x,1\n")
        self.out.flush()

    gauge = count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--rounds", type=int, default=2000, help=f"batches; signals are computed for {KEPT} rows at once"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bodies = itertools.cycle([path.read_bytes() for path in find_images(args.images)])
    batches = [list(itertools.islice(bodies, args.batch)) for _ in range(args.rounds)]
    with open_archive(args.archive) as pipeline:
        print(json.dumps(compare(pipeline, batches)))


class Clocked(Counters):
    """Counters that know how long each batch took them: one in every few pays for the signals of all."""

    milliseconds = 0.0  # of the last batch

    def record(self, finished: Finished) -> None:
        """Count one batch."""
        start = time.perf_counter()
        super().record(finished)
        self.milliseconds = (time.perf_counter() - start) * 1000


def compare(pipeline: Pipeline, batches: Sequence[Sequence[bytes]]) -> dict[str, float]:
    """Answer each batch twice, once measured and once not, in turns; return the milliseconds that a request pays.

    What counting takes is a mean, since signals are computed for ``KEPT`` rows at once. All else is the median of the
    pairs' differences: the forward pass, which both have, varies by more than the difference.
    """
    monitor, map_filter, baseline = pipeline.monitor, pipeline.monitor.map_filter, pipeline.monitor.baseline
    counters = Clocked(NullSink(), baseline)

    def answer(measured: bool, batch: Sequence[bytes]) -> float:
        monitor.map_filter = map_filter if measured else None
        monitor.report_to(*([counters] if measured else []))
        start = time.perf_counter()
        pipeline.answer([RawRequest(body) for body in batch])
        return (time.perf_counter() - start) * 1000

    without, counting, beside = [], [], []
    for number, batch in enumerate(batches):
        took = {measured: answer(measured, batch) for measured in ((True, False) if number % 2 else (False, True))}
        without.append(took[False] / len(batch))
        counting.append(counters.milliseconds / len(batch))
        beside.append((took[True] - took[False]) / len(batch) - counting[-1])
    counters.close()
    extra = statistics.mean(counting) + statistics.median(beside)
    handler = statistics.median(without)
    return {
        "batch": len(batches[0]),
        "pairs": len(batches),
        "without_ms": round(handler, 3),
        "extra_ms": round(extra, 4),
        "extra_share": round(extra / handler, 5),
    }


if __name__ == "__main__":
    main()
