"""The command ``camserve``: one file for each subcommand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from camserve import __version__
from camserve.cli import (
    archive,
    audit,
    baseline,
    bench,
    calibrate,
    doctor,
    explain,
    inspect,
    metrics,
    report,
    serve,
    watch,
)
from camserve.errors import CamserveError

COMMANDS = (archive, baseline, inspect, explain, serve, doctor, metrics, audit, watch, calibrate, report, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status is 0, 1 (the work failed) or 2 (usage)."""
    parser = argparse.ArgumentParser(prog="camserve", description="Explain what a served image classifier looked at.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    asked = parser.parse_args(arguments)
    try:
        return int(asked.run(asked))
    except CamserveError as error:
        print(f"camserve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
