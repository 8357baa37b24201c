"""Replay clean history and count the false alarms that the drift rules would have raised.

Print by what each feature's chi-square and location must be divided so that there are none.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import yaml

from camserve.build.mar.unpack import baseline_of
from camserve.build.write_file import write_text
from camserve.drift.audit_log import read_audit
from camserve.drift.calibration import Calibration, History, calibrate, dispersion_rules, from_audit, from_prometheus
from camserve.drift.statistics import TESTS
from camserve.drift.version import Version

EXAMPLE = """examples:
  camserve calibrate --metrics-url http://127.0.0.1:9090 --days 14 --out config/monitoring
  camserve calibrate audit/*.jsonl --baseline model_store/imagenet.mar
"""
DAY = 86400.0  # seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("audit", nargs="*", type=Path, metavar="AUDIT.jsonl", help="audit files of clean traffic")
    parser.add_argument("--baseline", type=Path, metavar="N.mar", help="the archive that the audit files came from")
    parser.add_argument("--metrics-url", help="a Prometheus, instead of audit files")
    parser.add_argument("--days", type=float, default=7.0, help="length of the history in Prometheus (7)")
    parser.add_argument("--window", type=float, default=3600.0, help="seconds of one window (3600)")
    parser.add_argument("--out", type=Path, help="folder for dispersion-MODEL-VERSION.yml, which prometheus.yml loads")


def run(args: argparse.Namespace) -> int:
    """Calibrate every version in the history."""
    for version, (reference, windows) in sorted(_history(args).items()):
        found = calibrate(reference, windows)
        print("\n".join(calibration_lines(version, found)))
        if args.out:
            path = args.out / f"dispersion-{version.model}-{version.version}.yml"
            write_text(path, yaml.safe_dump(dispersion_rules(version, found), sort_keys=False))
            print(path)
    return 0


def _history(args: argparse.Namespace) -> History:
    if bool(args.metrics_url) == bool(args.audit):
        args.parser.error("give either audit files or --metrics-url")
    if args.metrics_url:
        now = time.time()
        return from_prometheus(args.metrics_url, now - args.days * DAY, now, args.window)
    if not args.baseline:
        args.parser.error("audit files need --baseline N.mar")
    return from_audit(read_audit(args.audit), *baseline_of(args.baseline), args.window)


def calibration_lines(version: Version, found: list[Calibration]) -> list[str]:
    """Return the lines that show one version's calibration."""
    tests = " ".join(f"{test:>8}" for test in TESTS)
    lines = [f"{version}", f"  {'feature':<16} {'windows':>7} {tests} {'false alarms':>12} {'then':>5}"]
    for row in found:
        factors = " ".join(f"{row.dispersions[test]:>8.2f}" if test in row.dispersions else " " * 8 for test in TESTS)
        lines.append(f"  {row.feature:<16} {row.windows:>7} {factors} {row.alarms_before:>12} {row.alarms_after:>5}")
    return lines
