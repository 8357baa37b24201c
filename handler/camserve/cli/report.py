"""Write one HTML file: drift by feature, the dashboard's panels, drifting and worst examples."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path

from camserve.build.mar.unpack import baseline_of
from camserve.build.write_file import write_text
from camserve.drift.audit_log import read_audit
from camserve.drift.records import records_of
from camserve.drift.report import write_report

EXAMPLE = """examples:
  camserve report audit/*.jsonl --baseline model_store/imagenet.mar --out report.html
  camserve report audit/*.jsonl --baseline model_store/imagenet.mar --clean-until 2027-01-15T12:00
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("audit", nargs="+", type=Path, metavar="AUDIT.jsonl")
    parser.add_argument("--baseline", type=Path, required=True, metavar="N.mar", help="the archive that was served")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the file to write (report.html)")
    parser.add_argument(
        "--clean-until",
        type=instant,
        metavar="TIME",
        help="compare values after this time (ISO 8601, UTC) with those before it, too",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    version, baseline = baseline_of(args.baseline)
    records = records_of(read_audit(args.audit), version)
    page = write_report(records, baseline, str(version), args.clean_until)
    write_text(args.out, page)
    print(f"{args.out}: {len(records)} records")
    return 0


def instant(text: str) -> float:
    """Return the seconds since 1970 of a time in ISO 8601, in UTC unless it names an offset."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2027-01-15T12:00") from None
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
