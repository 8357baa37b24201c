"""Follow a server's counters and raise an alarm when a week of hours speaks against the baseline.

Clean traffic raises at most one alarm in THRESHOLD hours on average.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from camserve.drift.counts import read_counts
from camserve.drift.exporter import EvidencePage, serve_page
from camserve.drift.statistics import ALARM_WINDOWS
from camserve.drift.watcher import Evidence, Watcher
from camserve.errors import printable

EXAMPLE = """examples:
  camserve watch --metrics-url http://127.0.0.1:8082/metrics
  camserve watch --metrics-url http://127.0.0.1:9090 --once    # from cron; the address of a Prometheus

exit status with --once: 0 quiet, 3 alarm
"""
SHOWN = 3  # features named in an alarm
ALARM_STATUS = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--metrics-url", required=True, help="a metrics port (.../metrics) or a Prometheus")
    parser.add_argument("--threshold", type=float, default=ALARM_WINDOWS, help=f"alarm level ({ALARM_WINDOWS:.0f})")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two checks (60)")
    parser.add_argument(
        "--state", type=Path, default=Path("out/watch.json"), help="the counts so far; delete the file to start again"
    )
    parser.add_argument("--once", action="store_true", help="check once and exit")
    parser.add_argument("--port", type=int, help="show the evidence to a Prometheus on this loopback port")


def run(args: argparse.Namespace) -> int:
    """Check again and again."""
    watcher = Watcher(args.state)
    page = EvidencePage(args.threshold)
    if args.port is not None:
        serve_page(page, args.port)
    alarmed: set[str] = set()
    while True:
        found = watcher.observe(read_counts(args.metrics_url), time.time())
        page.show(found)
        alarming = {str(evidence.version) for evidence in found if evidence.alarms(args.threshold)}
        for evidence in found:
            if args.once or str(evidence.version) in alarming ^ alarmed:
                print(printable(evidence_line(evidence, args.threshold)), flush=True)
        alarmed = alarming
        if args.once:
            return ALARM_STATUS if alarming else 0
        time.sleep(args.every)


def evidence_line(evidence: Evidence, threshold: float) -> str:
    """Return the line that shows one version's evidence."""
    strongest = ", ".join(f"{name} {value:.3g}" for name, value in list(evidence.features.items())[:SHOWN])
    state = "ALARM" if evidence.alarms(threshold) else "quiet"
    return (
        f"{state} {evidence.version}: evidence {evidence.e:.3g} of {threshold:g} in {evidence.requests:.0f} requests; "
        f"strongest: {strongest}"
    )
