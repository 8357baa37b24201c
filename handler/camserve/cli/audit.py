"""camserve audit."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

from camserve.drift.audit_log import Record, read_audit
from camserve.drift.records import Score, flatten, read_truth, score
from camserve.errors import ConfigError

EXAMPLE = """examples:
  camserve audit to-parquet /var/log/camserve --out requests.parquet
  camserve audit score /var/log/camserve --labels truth.csv
"""


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "audit",
        help="read an audit log: as a table, or held against labels",
        description="Read the records that a server wrote with the setting monitoring.audit.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    table = actions.add_parser("to-parquet", help="write all records as one Parquet file (needs pyarrow)")
    table.add_argument("folder", type=Path)
    table.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    table.add_argument("--labels", type=Path, metavar="FILE.csv", help="adds the column truth, joined by request id")
    table.set_defaults(run=to_parquet)
    scored = actions.add_parser("score", help="true accuracy and calibration of the sampled requests")
    scored.add_argument("folder", type=Path)
    scored.add_argument("--labels", type=Path, required=True, metavar="FILE.csv", help="request_id and class_index")
    scored.add_argument("--json", action="store_true", help="print one JSON object")
    scored.set_defaults(run=to_score)


def to_parquet(asked: argparse.Namespace) -> int:
    """Write the table."""
    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError("this needs pyarrow: pip install pyarrow") from None
    truth = {} if asked.labels is None else read_truth(asked.labels)
    rows = [flatten(record) for record in _records(asked.folder)]
    columns = sorted({name for row in rows for name in row})
    table = {name: [row.get(name) for row in rows] for name in columns}
    if truth:
        table["truth"] = [truth.get(row["request_id"]) for row in rows]
    parquet.write_table(pyarrow.table(table), asked.out)
    print(f"wrote {asked.out}: {len(rows)} records, {len(table)} columns")
    return 0


def to_score(asked: argparse.Namespace) -> int:
    """Print accuracy and calibration."""
    found = score(_records(asked.folder), read_truth(asked.labels))
    print(json.dumps(dataclasses.asdict(found)) if asked.json else "\n".join(lines(found)))
    return 0


def _records(folder: Path) -> list[Record]:
    return read_audit(sorted(folder.glob("audit-*.jsonl")))


def lines(found: Score) -> list[str]:
    """Return the report as text."""
    low, high = found.interval
    told = [
        f"accuracy {found.accuracy:.3f} ({low:.3f} to {high:.3f}) over {found.labelled} labelled requests",
        f"expected calibration error {found.calibration_error:.3f}",
        "confidence      requests  mean confidence  accuracy",
    ]
    told += [
        f"{each.low:.1f} to {each.high:.1f} {each.count:14d} {each.confidence:16.3f} {each.accuracy:9.3f}"
        for each in found.slices
    ]
    return told
