"""camserve doctor."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from camserve.build.unpack import read_contents
from camserve.errors import ConfigError
from camserve.operate.doctor.files import check_model, check_properties, read_properties
from camserve.operate.doctor.findings import UNSAFE, Finding
from camserve.operate.doctor.live import check_server

EXAMPLE = """examples:
  camserve doctor --config config/config.properties --archive model_store/imagenet.mar
  camserve doctor --url http://127.0.0.1:8081 --token "$(jq -r .management.key key_file.json)"
"""


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "doctor",
        help="say what is unsafe in a server's configuration",
        description="Check files, a running server, or both. Exit status 1: something is unsafe.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="management side of a running server")
    parser.add_argument("--token", default="", help="its key, from key_file.json")
    parser.add_argument("--metrics", metavar="URL", help="its metrics side; default: the port after --url's")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a config.properties")
    parser.add_argument("--archive", type=Path, metavar="N.mar", help="an archive, for its model-config.yaml")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Print every finding."""
    if not (asked.url or asked.config or asked.archive):
        raise ConfigError("name what to look at: --url, --config or --archive")
    findings = look(asked)
    if asked.json:
        print(json.dumps([dataclasses.asdict(each) for each in findings]))
    else:
        for each in findings:
            print(f"{each.level}  {each.where}\n  {each.risk}\n  write: {each.line}")
        unsafe = sum(each.level == UNSAFE for each in findings)
        print(f"{unsafe} unsafe, {len(findings) - unsafe} advice")
    return int(any(each.level == UNSAFE for each in findings))


def look(asked: argparse.Namespace) -> list[Finding]:
    """Check all that was named."""
    findings: list[Finding] = []
    if asked.config:
        findings += check_properties(read_properties(asked.config), str(asked.config))
    if asked.archive:
        findings += check_model(read_contents(asked.archive).config, f"{asked.archive}: model-config.yaml")
    if asked.url:
        findings += check_server(asked.url, asked.token, asked.metrics or metrics_url(asked.url))
    return findings


def metrics_url(url: str) -> str:
    """Return where the metrics are if the ports are neighbours, as TorchServe's are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{(parts.port or 80) + 1}/metrics"
