"""camserve watch."""

from __future__ import annotations

import argparse
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from camserve.drift.counts import read_counts
from camserve.drift.statistics import ALARM_WINDOWS
from camserve.drift.watcher import Evidence, Watcher

EXAMPLE = """examples:
  camserve watch --metrics-url http://127.0.0.1:8082/metrics
  camserve watch --metrics-url http://127.0.0.1:9090 --once    # from cron; the address of a Prometheus

exit status with --once: 0 quiet, 3 alarm
"""
LOOPBACK = "127.0.0.1"
SHOWN = 3  # features named in an alarm
ALARM_STATUS = 3
METRICS = {
    "cam_e_detector": "evidence of drift in the last week, all features",
    "cam_e_alarm": "the evidence that raises an alarm",
    "cam_e_feature": "evidence of drift in the last week",
}


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "watch",
        help="raise an alarm when traffic leaves its baseline",
        description="Follow a server's counters and raise an alarm when a week of hours speaks against the baseline. "
        "Clean traffic raises one in THRESHOLD hours or fewer.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--metrics-url", required=True, help="a metrics port (.../metrics) or a Prometheus")
    parser.add_argument("--threshold", type=float, default=ALARM_WINDOWS, help=f"alarm level ({ALARM_WINDOWS:.0f})")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between looks (60)")
    parser.add_argument(
        "--state", type=Path, default=Path("out/watch.json"), help="what is remembered; delete to forget"
    )
    parser.add_argument("--once", action="store_true", help="look once and exit")
    parser.add_argument("--port", type=int, help="tell the evidence to a Prometheus on this loopback port")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Look, again and again."""
    watcher = Watcher(asked.state)
    board = Board(asked.threshold)
    if asked.port is not None:
        serve(board, asked.port)
    alarmed: set[str] = set()
    while True:
        found = watcher.observe(read_counts(asked.metrics_url), time.time())
        board.show(found)
        firing = {str(each.version) for each in found if each.alarms(asked.threshold)}
        for each in found:
            if asked.once or str(each.version) in firing ^ alarmed:
                print(line(each, asked.threshold), flush=True)
        alarmed = firing
        if asked.once:
            return ALARM_STATUS if firing else 0
        time.sleep(asked.every)


def line(evidence: Evidence, threshold: float) -> str:
    """Say what was found, in one line."""
    strongest = ", ".join(f"{name} {value:.3g}" for name, value in list(evidence.features.items())[:SHOWN])
    state = "ALARM" if evidence.alarms(threshold) else "quiet"
    return (
        f"{state} {evidence.version}: evidence {evidence.e:.3g} of {threshold:g} in {evidence.requests:.0f} requests; "
        f"strongest: {strongest}"
    )


class Board:
    """The last evidence, as Prometheus reads it."""

    def __init__(self, threshold: float) -> None:
        """Begin empty."""
        self._threshold = threshold
        self.text = ""

    def show(self, found: list[Evidence]) -> None:
        """Replace what is told."""
        samples: dict[str, list[str]] = {name: [] for name in METRICS}
        for each in found:
            model = f'ModelName="{each.version.model}",ModelVersion="{each.version.version}"'
            samples["cam_e_detector"].append(f"{{{model}}} {each.e}")
            samples["cam_e_alarm"].append(f"{{{model}}} {self._threshold}")
            samples["cam_e_feature"] += [
                f'{{{model},feature="{name}"}} {value}' for name, value in each.features.items()
            ]
        self.text = "".join(
            f"# HELP {name} {meaning}\n# TYPE {name} gauge\n" + "".join(f"{name}{sample}\n" for sample in samples[name])
            for name, meaning in METRICS.items()
        )


def serve(board: Board, port: int) -> ThreadingHTTPServer:
    """Answer /metrics on a loopback port in a thread of its own."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = board.text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((LOOPBACK, port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
