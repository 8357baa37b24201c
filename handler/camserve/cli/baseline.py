"""camserve baseline."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

import camserve
from camserve.build.archive import add_baseline
from camserve.build.unpack import open_archive
from camserve.errors import CamserveError, ConfigError, quote
from camserve.labels import Labels
from camserve.monitor.baseline import ADVISED_IMAGES, LEAST_IMAGES, Baseline, Collector, Provenance, make_baseline
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest

EXAMPLE = """example:
  camserve baseline model_store/imagenet.mar --images photos --labels labels.csv
"""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
BATCH = 8  # pictures


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "baseline",
        help="teach a .mar what is normal, so that drift can be seen",
        description="Measure every signal over photos like those that the model will be sent, and add their "
        "distributions to the archive.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", type=Path, metavar="N.mar")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help=f"{LEAST_IMAGES} photos or more")
    parser.add_argument("--labels", type=Path, metavar="FILE.csv", help="columns file and class_index, or label")
    parser.add_argument("--out", type=Path, help="the archive to write; default: N.mar itself")
    parser.add_argument("--date", default=date.today().isoformat(), help="date to record (today)")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Measure the photos and write the archive."""
    baseline = measure_baseline(asked.archive, asked.images, asked.labels, asked.date)
    out = asked.out or asked.archive
    add_baseline(asked.archive, out, baseline.write())
    if asked.json:
        print(json.dumps(summary(baseline)))
    else:
        print(f"wrote {out}: {json.dumps(summary(baseline))}")
    return 0


def summary(baseline: Baseline) -> dict[str, object]:
    """Return what a person wants to know of a baseline."""
    accuracy = baseline.accuracy
    return {
        "images": baseline.provenance.images,
        "signals": len(baseline.signals),
        "accuracy": None if accuracy is None else round(accuracy.accuracy, 4),
        "atc_threshold": None if accuracy is None else round(accuracy.threshold, 4),
        **{f"{name}_share": round(share, 4) for name, share in baseline.shares.items()},
    }


def measure_baseline(archive: Path, folder: Path, labels: Path | None, on: str) -> Baseline:
    """Show every photo of a folder to an archive's model. ConfigError: too few could be read."""
    images = find_images(folder)
    if len(images) < ADVISED_IMAGES:
        say(f"{len(images)} photos; {ADVISED_IMAGES} or more make drift visible sooner ({LEAST_IMAGES} is the least)")
    with open_archive(archive, baseline=False) as pipeline:
        watch = pipeline.monitor.watch
        assert watch is not None
        collector = Collector()
        pipeline.monitor.report_to(collector)
        _show(pipeline, images, folder, watch.usual.explain is False)
        if collector.failures:
            raise CamserveError("the signals of a photo could not be measured; the log says why")
        truth = {} if labels is None else read_labels(labels, pipeline.labels)
        right = {
            request.request_id: truth[request.request_id] == best
            for each in collector.seen
            for request, best in zip(each.requests, each.classes.tolist())
            if request.request_id in truth
        }
        if labels is not None and not right:
            raise ConfigError(f"{labels} names none of the photos in {folder}")
        settings = pipeline.settings
        count = sum(len(each.requests) for each in collector.seen)
        layer, method = watch.layer, watch.usual.methods[0]
        versions = camserve.__version__, torch.__version__
        provenance = Provenance(settings.model.sha256, layer, method, *versions, on, count)
        return make_baseline(collector.seen, right, provenance, settings.monitoring.low_confidence)


def find_images(folder: Path) -> list[Path]:
    """Return the photos of a folder and its subfolders, by name. ConfigError: there are none."""
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise ConfigError(f"there are no photos in {folder}")
    return images


def _show(pipeline: Pipeline, images: Sequence[Path], folder: Path, must_explain: bool) -> None:
    unreadable = 0
    for start in range(0, len(images), BATCH):
        chosen = images[start : start + BATCH]
        rows = [
            RawRequest(path.read_bytes(), must_explain=must_explain, request_id=path.relative_to(folder).as_posix())
            for path in chosen
        ]
        unreadable += sum(answer.status != 200 for answer in pipeline.answer(rows))
        if sys.stderr.isatty():
            print(f"\r{start + len(chosen)} of {len(images)} photos", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if unreadable:
        say(f"{unreadable} of {len(images)} photos could not be answered and were left out")


def read_labels(path: Path, labels: Labels) -> dict[str, int]:
    """Read a CSV of file and class_index, or label. ConfigError: a column is missing, a class unknown."""
    try:
        with path.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    column = next((name for name in ("class_index", "label") if rows and name in rows[0]), None)
    if column is None or "file" not in rows[0]:
        raise ConfigError(f"{path} must have the columns file and class_index, or file and label")
    return {row["file"]: _class(row, column, labels, path) for row in rows}


def _class(row: Mapping[str, str], column: str, labels: Labels, path: Path) -> int:
    try:
        return labels.find(row[column])
    except CamserveError as error:
        raise ConfigError(f"{path}: {quote(row['file'])}: {error}") from None


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(f"camserve: {line}", file=sys.stderr)
