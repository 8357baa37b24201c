"""camserve calibrate."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import yaml

from camserve.cli.report import baseline_of
from camserve.drift.audit_log import count_bins, read_audit, reference_bins, sample_of, windows_of
from camserve.drift.calibration import Calibration, calibrate, dispersion_rules, from_prometheus
from camserve.drift.counts import Bins, Version
from camserve.drift.statistics import TESTS
from camserve.errors import ConfigError

EXAMPLE = """examples:
  camserve calibrate --metrics-url http://127.0.0.1:9090 --days 14 --out config/monitoring
  camserve calibrate audit/*.jsonl --baseline model_store/imagenet.mar
"""
DAY = 86400.0


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "calibrate",
        help="learn from clean traffic how much it varies",
        description="Replay clean history: how often the drift rules would have raised a false alarm, and by what "
        "each feature's chi-square and location must be divided so that they would not.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("audit", nargs="*", type=Path, metavar="AUDIT.jsonl", help="audit files of clean traffic")
    parser.add_argument("--baseline", type=Path, metavar="N.mar", help="the archive that the audit files came from")
    parser.add_argument("--metrics-url", help="a Prometheus, instead of audit files")
    parser.add_argument("--days", type=float, default=7.0, help="length of the history in Prometheus (7)")
    parser.add_argument("--window", type=float, default=3600.0, help="seconds of one window (3600)")
    parser.add_argument("--out", type=Path, help="folder for dispersion-MODEL-VERSION.yml, which prometheus.yml loads")
    parser.set_defaults(run=run, parser=parser)


def run(asked: argparse.Namespace) -> int:
    """Calibrate every version in the history."""
    for version, (reference, windows) in sorted(_history(asked).items()):
        found = calibrate(reference, windows)
        print("\n".join(table(version, found)))
        if asked.out:
            path = asked.out / f"dispersion-{version.model}-{version.version}.yml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(dispersion_rules(version, found), sort_keys=False), encoding="utf-8")
            print(path)
    return 0


def _history(asked: argparse.Namespace) -> dict[Version, tuple[Bins, list[Bins]]]:
    if bool(asked.metrics_url) == bool(asked.audit):
        asked.parser.error("give either audit files or --metrics-url")
    if asked.metrics_url:
        now = time.time()
        return from_prometheus(asked.metrics_url, now - asked.days * DAY, now, asked.window)
    if not asked.baseline:
        asked.parser.error("audit files need --baseline N.mar")
    name, baseline = baseline_of(asked.baseline)
    records = [each for each in sample_of(read_audit(asked.audit)) if each.model == name.model]
    if not records:
        raise ConfigError(f"the audit files hold no sampled records of {name.model}")
    windows = [count_bins(each, baseline) for each in windows_of(records, asked.window).values()]
    return {name: (reference_bins(baseline), windows)}


def table(version: Version, found: list[Calibration]) -> list[str]:
    """Return the lines that show one version's calibration."""
    tests = " ".join(f"{test:>8}" for test in TESTS)
    lines = [f"{version}", f"  {'feature':<16} {'windows':>7} {tests} {'false alarms':>12} {'then':>5}"]
    for each in found:
        factors = " ".join(f"{each.dispersions[test]:>8.2f}" if test in each.dispersions else " " * 8 for test in TESTS)
        lines.append(
            f"  {each.feature:<16} {each.windows:>7} {factors} {each.alarms_before:>12} {each.alarms_after:>5}"
        )
    return lines
