"""Print a server's metrics.yaml with camserve's metrics in it, for metrics_config.

What it declares stays; its comments do not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from camserve.operate.metrics import join_metrics, read_metrics
from camserve.operate.shipped import SHIPPED_METRICS

EXAMPLE = """example:
  camserve metrics my-metrics.yaml > joined-metrics.yaml
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("own", type=Path, metavar="metrics.yaml", help="the file that the server reads now")


def run(args: argparse.Namespace) -> int:
    """Print the joined file."""
    joined = join_metrics(read_metrics(args.own), read_metrics(SHIPPED_METRICS), str(args.own))
    print(f"# {args.own.name} and camserve's metrics, by: camserve metrics {args.own.name}")
    print(yaml.safe_dump(joined, sort_keys=False, width=200), end="")
    return 0
