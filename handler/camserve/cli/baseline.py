"""Measure every signal over photos like those that the model will get, and add the distributions to the archive."""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

from camserve.build.baseline.measure import LEAST_IMAGES, measure_baseline
from camserve.build.mar.pack import add_baseline
from camserve.bulk.normal import baseline_of_run
from camserve.cli.terminal import say
from camserve.monitor.baseline import Baseline

EXAMPLE = """examples:
  camserve baseline model_store/imagenet.mar --images photos --labels labels.csv
  camserve baseline model_store/imagenet.mar --run run
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("archive", type=Path, metavar="N.mar")
    photos = parser.add_mutually_exclusive_group(required=True)
    photos.add_argument("--images", type=Path, metavar="DIR", help=f"{LEAST_IMAGES} photos or more")
    photos.add_argument("--run", dest="run_folder", type=Path, metavar="FOLDER", help="what camserve explain kept")
    parser.add_argument("--labels", type=Path, metavar="FILE.csv", help="columns file and class_index, or label")
    parser.add_argument("--out", type=Path, help="the archive to write; default: N.mar itself")
    parser.add_argument("--date", default=date.today().isoformat(), help="date to record (today)")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure the photos and write the archive."""
    if args.run_folder is not None:
        baseline = baseline_of_run(args.archive, args.run_folder, args.labels, args.date, say)
    else:
        baseline = measure_baseline(args.archive, args.images, args.labels, args.date, say)
    out = args.out or args.archive
    add_baseline(args.archive, out, baseline.write())
    summary = json.dumps(summarize(baseline))
    print(summary if args.json else f"wrote {out}: {summary}")
    return 0


def summarize(baseline: Baseline) -> dict[str, object]:
    """Return a baseline's main numbers."""
    accuracy = baseline.accuracy
    return {
        "images": baseline.provenance.images,
        "signals": len(baseline.signals),
        "signals_off": baseline.signals_off,
        "accuracy": None if accuracy is None else round(accuracy.accuracy, 4),
        "atc_threshold": None if accuracy is None else round(accuracy.threshold, 4),
        **{f"{name}_share": round(share, 4) for name, share in baseline.shares.items()},
    }
