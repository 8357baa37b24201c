"""Show a .mar's model, target layers, methods, input, sizes and hashes, and what a server must have for it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from camserve.build.mar.file import check_sizes
from camserve.build.mar.stock import imported_packages
from camserve.build.mar.unpack import Contents, read_contents
from camserve.errors import printable
from camserve.files import sha256
from camserve.measures import Quantised

EXAMPLE = """example:
  camserve inspect model_store/imagenet.mar
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("archive", type=Path, metavar="N.mar")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the archive's description."""
    check_sizes(args.archive)
    description = describe_contents(read_contents(args.archive), args.archive)
    if args.json:
        print(json.dumps(description))
    else:
        for name, value in description.items():
            print(f"{name:<10} {printable(value) if isinstance(value, str) else json.dumps(value)}")
    return 0


def describe_contents(contents: Contents, path: Path) -> dict[str, Any]:
    """Return what an archive holds, by name."""
    settings = contents.settings
    return {
        "model": f"{contents.name} {contents.version}",
        "factory": settings.model.factory,
        "outputs": [dataclasses.asdict(output) for output in settings.outputs],
        "layers": [dataclasses.asdict(layer) for layer in settings.layers],
        "methods": list(settings.methods),
        "runtime": dataclasses.asdict(settings.runtime),
        "int8": settings.compiled and settings.compiled.quantised and _describe_int8(settings.compiled.quantised),
        "measures": dataclasses.asdict(settings.measures),
        "evidence_card": settings.evaluated.describe(),
        "input": dataclasses.asdict(settings.input),
        "defaults": dataclasses.asdict(settings.defaults),
        "samples": list(settings.samples),
        "monitoring": dataclasses.asdict(settings.monitoring),
        "needs": describe_server(contents, path),
        "files": len(contents.sizes),
        "bytes": sum(contents.sizes.values()),
        "weights": f"{contents.sizes.get(settings.model.weights, 0)} bytes, sha256 {settings.model.sha256}",
        "made from": f"sha256 {settings.model.source_sha256}",
        "archive": f"{path.stat().st_size} bytes, sha256 {sha256(path)}",
    }


def _describe_int8(found: Quantised) -> dict[str, Any]:
    if found.compared_on:
        return dataclasses.asdict(found)
    known = {"calibrated_on": found.calibrated_on, "compared_on": 0, "kept": found.kept}
    return {**known, "why": "not compared: no photos were given"}


def describe_server(contents: Contents, path: Path) -> str:
    """Return what a server must have installed beside what TorchServe's stock image has."""
    settings = contents.settings
    packages = imported_packages(path, settings)
    needs = [f"{', '.join(packages)}, which TorchServe's stock image lacks" if packages else "TorchServe's stock image"]
    if settings.model.weights.endswith(".pt2"):
        needs.append("the torch that exported its program, or a later one")
    if settings.compiled is not None:
        needs.append("openvino, without which it runs in mode eager")
    return "; ".join(needs)
