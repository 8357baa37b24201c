"""What monitoring costs a request: the same photos through the same archive, with it and without, in pairs.

    .venv/bin/python scripts/monitoring_overhead.py N.mar --images DIR [--batch 8] [--rounds 30]

N.mar needs a baseline (camserve baseline). Lines go where TorchServe's would: formatted, to /dev/null.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from camserve.cli.baseline import find_images
from camserve.monitor.counters import KEPT, Counters
from camserve.pipeline import Pipeline
from camserve.unpack import open_archive
from camserve.values import RawRequest


class Lines:
    """A sink that writes a line for each count, as TorchServe's metrics do."""

    def __init__(self) -> None:
        """Open the void."""
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
    parser.add_argument("--rounds", type=int, default=60, help=f"batches; {KEPT} requests make a pair")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    bodies = [path.read_bytes() for path in find_images(asked.images)[: asked.batch * asked.rounds]]
    batches = [bodies[start : start + asked.batch] for start in range(0, len(bodies), asked.batch)]
    with open_archive(asked.archive) as pipeline:
        print(json.dumps(compare(pipeline, batches)))


def compare(pipeline: Pipeline, batches: Sequence[Sequence[bytes]]) -> dict[str, float]:
    """Answer each batch twice, once watched and once not, in turns; return the medians a request, in milliseconds.

    Signals are computed for ``KEPT`` rows at once, so that a pair is as many requests of each kind, side by side.
    """
    monitor, watch, baseline = pipeline.monitor, pipeline.monitor.watch, pipeline.monitor.baseline
    counters = Counters(Lines(), baseline)
    spent: dict[bool, list[float]] = {True: [], False: []}

    def answer(watched: bool, batch: Sequence[bytes]) -> None:
        monitor.watch = watch if watched else None
        monitor.report_to(*([counters] if watched else []))
        start = time.perf_counter()
        pipeline.answer([RawRequest(body) for body in batch])
        spent[watched].append((time.perf_counter() - start) * 1000 / len(batch))

    for batch in batches[:2]:
        answer(True, batch)
        answer(False, batch)
    spent[True].clear()
    spent[False].clear()
    for number, batch in enumerate(batches):
        for watched in (True, False) if number % 2 else (False, True):
            answer(watched, batch)
    counters.close()
    together = max(1, KEPT // len(batches[0]))
    means = {
        watched: [statistics.mean(each[at : at + together]) for at in range(0, len(each) - together + 1, together)]
        for watched, each in spent.items()
    }
    extra = [with_it - without for with_it, without in zip(means[True], means[False])]
    without = statistics.median(spent[False])
    return {
        "batch": len(batches[0]),
        "pairs": len(extra),
        "without_ms": round(without, 3),
        "extra_ms": round(statistics.median(extra), 4),
        "extra_share": round(statistics.median(extra) / without, 5),
    }


if __name__ == "__main__":
    main()
