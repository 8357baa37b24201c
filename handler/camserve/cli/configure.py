"""Change settings of a built .mar: defaults, limits, methods, monitoring, runtime, selftest, and TorchServe's keys.

A value is YAML; null takes one away. The archive is checked as a server checks it, passes its self-test in a process of
its own, and is written whole or not at all. Without KEY=VALUE every key that may be changed is shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from camserve.build.changes import flatten_config
from camserve.build.mar.unpack import read_contents
from camserve.build.pairs import read_pair
from camserve.cli.terminal import say
from camserve.errors import printable

EXAMPLE = """examples:
  camserve configure model_store/imagenet.mar defaults.method=layercam limits.max_targets=10
  camserve configure model_store/imagenet.mar batchSize=16 minWorkers=2 maxWorkers=2 --out out/imagenet.mar
  camserve configure model_store/imagenet.mar methods=gradcam,layercam,cam
  camserve configure model_store/imagenet.mar monitoring.audit.directory=/var/log/camserve monitoring.audit.rate=0.05
  camserve configure model_store/imagenet.mar monitoring.audit=null
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("archive", type=Path, metavar="N.mar")
    parser.add_argument("pairs", nargs="*", metavar="KEY=VALUE", help="what to change")
    parser.add_argument("--out", type=Path, help="the archive to write; default: N.mar itself")


def run(args: argparse.Namespace) -> int:
    """Change the settings and print what is now otherwise, or print all."""
    if not args.pairs:
        for key, value in flatten_config(read_contents(args.archive).config).items():
            print(printable(f"{key}={value if isinstance(value, str) else json.dumps(value)}"))
        return 0
    from camserve.build.configure import configure_archive  # which needs torch

    out = args.out or args.archive
    changes = configure_archive(args.archive, out, [read_pair(text) for text in args.pairs], say)
    for line in changes:
        print(printable(line))
    print(printable(f"wrote {out}" if changes else "nothing changes: nothing was written"))
    return 0
