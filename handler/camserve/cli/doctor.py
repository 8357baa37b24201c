"""Check the files of a server, a running server, or both. Exit status 1: something is unsafe, or was not checked."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path

from camserve.cli.terminal import RED, YELLOW, paint
from camserve.errors import ConfigError, printable
from camserve.operate.doctor.findings import ADVICE, UNCHECKED, UNSAFE, Finding

EXAMPLE = """examples:
  camserve doctor --config config/config.properties --archive model_store/imagenet.mar
  camserve doctor --url http://127.0.0.1:8081 --token "$(jq -r .management.key key_file.json)"
  camserve doctor --front http://127.0.0.1:8000
"""
COLORS = {UNSAFE: RED, UNCHECKED: RED, ADVICE: YELLOW}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--url", help="management side of a running server")
    parser.add_argument("--token", default="", help="its key, from key_file.json")
    parser.add_argument("--metrics", metavar="URL", help="its metrics side; default: the port after --url's")
    parser.add_argument("--front", metavar="URL", help="the address that clients use")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a config.properties")
    parser.add_argument("--archive", type=Path, metavar="N.mar", help="an archive, for its model-config.yaml")
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> int:
    """Print every finding."""
    if not (args.url or args.front or args.config or args.archive):
        raise ConfigError("name what to check: --url, --front, --config or --archive")
    findings = _findings(args)
    counts = Counter(finding.level for finding in findings)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            where, risk, line = map(printable, (finding.where, finding.risk, finding.line))
            print(f"{paint(finding.level, COLORS[finding.level])}  {where}\n  {risk}\n  write: {line}")
        unchecked = f"{counts[UNCHECKED]} unchecked, " if counts[UNCHECKED] else ""
        print(f"{counts[UNSAFE]} unsafe, {unchecked}{counts[ADVICE]} advice")
    return int(counts[UNSAFE] + counts[UNCHECKED] > 0)


def _findings(args: argparse.Namespace) -> list[Finding]:
    # Only a check itself needs these: the help comes sooner without.
    from camserve.build.mar.unpack import read_contents
    from camserve.operate.doctor.declared import check_declared
    from camserve.operate.doctor.files import check_model, check_properties, read_properties
    from camserve.operate.doctor.front import check_front
    from camserve.operate.doctor.live import check_server

    findings: list[Finding] = []
    if args.config:
        findings += check_properties(read_properties(args.config), str(args.config))
        findings += check_declared(args.config)
    if args.archive:
        findings += check_model(read_contents(args.archive).config, f"{args.archive}: model-config.yaml")
    if args.url:
        findings += check_server(args.url, args.token, args.metrics)
    if args.front:
        findings += check_front(args.front)
    return findings
