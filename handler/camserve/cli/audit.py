"""Read the records that a server wrote with the setting monitoring.audit."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from camserve.drift.records import SampleAccuracy, read_records, read_truth, score, write_parquet

EXAMPLE = """examples:
  camserve audit to-parquet /var/log/camserve --out requests.parquet
  camserve audit score /var/log/camserve --labels truth.csv
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of both actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    table = actions.add_parser("to-parquet", help="write all records as one Parquet file")
    table.add_argument("folder", type=Path)
    table.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    table.add_argument("--labels", type=Path, metavar="FILE.csv", help="adds the column truth, joined by request id")
    table.set_defaults(act=write_audit_table)
    scored = actions.add_parser("score", help="true accuracy and calibration of the sampled requests")
    scored.add_argument("folder", type=Path)
    scored.add_argument("--labels", type=Path, required=True, metavar="FILE.csv", help="request_id and class_index")
    scored.add_argument("--json", action="store_true", help="print one JSON object")
    scored.set_defaults(act=print_score)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    args.act(args)
    return 0


def write_audit_table(args: argparse.Namespace) -> None:
    """Write the records as a table."""
    truth = {} if args.labels is None else read_truth(args.labels)
    rows, columns = write_parquet(read_records(args.folder), truth, args.out)
    print(f"wrote {args.out}: {rows} records, {columns} columns")


def print_score(args: argparse.Namespace) -> None:
    """Print accuracy and calibration."""
    found = score(read_records(args.folder), read_truth(args.labels))
    print(json.dumps(dataclasses.asdict(found)) if args.json else "\n".join(score_lines(found)))


def score_lines(found: SampleAccuracy) -> list[str]:
    """Return the lines that show a score."""
    low, high = found.interval
    lines = [
        f"accuracy {found.accuracy:.3f} ({low:.3f} to {high:.3f}) over {found.labelled} labelled requests",
        f"expected calibration error {found.calibration_error:.3f}",
        "confidence      requests  mean confidence  accuracy",
    ]
    lines += [
        f"{part.low:.1f} to {part.high:.1f} {part.count:14d} {part.confidence:16.3f} {part.accuracy:9.3f}"
        for part in found.slices
    ]
    return lines
