"""camserve report."""

from __future__ import annotations

import argparse
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from camserve.build.unpack import read_contents
from camserve.drift.audit_log import read_audit, sample_of
from camserve.drift.counts import Version
from camserve.drift.report import write_report
from camserve.errors import ConfigError
from camserve.monitor.baseline import Baseline, read_baseline

EXAMPLE = """example:
  camserve report audit/*.jsonl --baseline model_store/imagenet.mar --out report.html
  camserve report audit/*.jsonl --baseline model_store/imagenet.mar --clean-until 2027-01-15T12:00
"""


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "report",
        help="draw what an audit log tells, beside the baseline",
        description="Write one HTML file: drift by feature, the dashboard's panels, drifting and worst examples.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("audit", nargs="+", type=Path, metavar="AUDIT.jsonl")
    parser.add_argument("--baseline", type=Path, required=True, metavar="N.mar", help="the archive that was served")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the file to write (report.html)")
    parser.add_argument(
        "--clean-until",
        type=instant,
        metavar="TIME",
        help="compare values after this time (ISO 8601, UTC) with those before it, too",
    )
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Write the report."""
    name, baseline = baseline_of(asked.baseline)
    records = [each for each in read_audit(asked.audit) if Version(each.model, each.version) == name]
    if not sample_of(records):
        raise ConfigError(f"the audit files hold no sampled records of {name}")
    page = write_report(records, baseline, str(name), asked.clean_until)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(page, encoding="utf-8")
    print(f"{asked.out}: {len(records)} records")
    return 0


def instant(text: str) -> float:
    """Return the seconds since 1970 of a time in ISO 8601, in UTC unless it names an offset."""
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2027-01-15T12:00") from None
    return (told if told.tzinfo else told.replace(tzinfo=timezone.utc)).timestamp()


def baseline_of(path: Path) -> tuple[Version, Baseline]:
    """Return an archive's version and its baseline. ConfigError: it has none."""
    contents = read_contents(path)
    name = contents.settings.monitoring.baseline
    if name is None:
        raise ConfigError(f"{path} has no baseline: camserve baseline {path} --images DIR")
    with zipfile.ZipFile(path) as archive:
        return Version(contents.name, contents.version), read_baseline(archive.read(name))
