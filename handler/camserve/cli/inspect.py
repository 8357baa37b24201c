"""camserve inspect."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from camserve.build.unpack import Contents, read_contents
from camserve.files import sha256

EXAMPLE = """example:
  camserve inspect model_store/imagenet.mar
"""


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "inspect",
        help="show what a .mar holds",
        description="Show a .mar's model, target layers, methods, input, sizes and hashes.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Print what the archive says of itself."""
    contents = read_contents(asked.archive)
    told = _told(contents, asked.archive)
    if asked.json:
        print(json.dumps(told))
    else:
        for name, value in told.items():
            print(f"{name:<10} {value if isinstance(value, str) else json.dumps(value)}")
    return 0


def _told(contents: Contents, path: Path) -> dict[str, Any]:
    settings = contents.settings
    return {
        "model": f"{contents.name} {contents.version}",
        "factory": settings.model.factory,
        "task": settings.model.task,
        "layers": [dataclasses.asdict(layer) for layer in settings.layers],
        "methods": list(settings.methods),
        "input": dataclasses.asdict(settings.input),
        "defaults": dataclasses.asdict(settings.defaults),
        "samples": list(settings.samples),
        "monitoring": dataclasses.asdict(settings.monitoring),
        "files": len(contents.sizes),
        "bytes": sum(contents.sizes.values()),
        "weights": f"{contents.sizes.get(settings.model.weights, 0)} bytes, sha256 {settings.model.sha256}",
        "made from": f"sha256 {settings.model.source_sha256}",
        "archive": f"{path.stat().st_size} bytes, sha256 {sha256(path)}",
    }
