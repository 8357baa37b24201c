"""Print the folder of the shipped configuration, or copy it.

It holds TorchServe's files, Prometheus rules, a Grafana dashboard, and recipes of models.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from camserve.errors import ConfigError
from camserve.operate.shipped import CONFIG_FOLDER

EXAMPLE = """examples:
  camserve archive "$(camserve config)/models/imagenet.yaml"
  camserve config --out config && docker compose -f config/monitoring/compose.yml up
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="copy the files into this new folder")


def run(args: argparse.Namespace) -> int:
    """Print the folder, or copy it."""
    if args.out is None:
        print(CONFIG_FOLDER)
        return 0
    if args.out.exists():
        raise ConfigError(f"{args.out} exists: name a new folder")
    shutil.copytree(CONFIG_FOLDER, args.out)
    print(args.out)
    return 0
