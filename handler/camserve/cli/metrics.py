"""camserve metrics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from camserve.errors import ConfigError
from camserve.operate.server import SHIPPED_CONFIG

SHIPPED = SHIPPED_CONFIG.parent / "metrics.yaml"
OURS = "cam_"
EXAMPLE = """example:
  camserve metrics my-metrics.yaml > joined-metrics.yaml
"""


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "metrics",
        help="declare camserve's metrics beside your own",
        description="Print a server's metrics.yaml with camserve's metrics in it, for metrics_config. What it declares "
        "stays; its comments do not.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("theirs", type=Path, metavar="metrics.yaml", help="the file that the server reads now")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Print the joined file."""
    joined = join(_read(asked.theirs), _read(SHIPPED)["model_metrics"], str(asked.theirs))
    print(f"# {asked.theirs.name} and camserve's metrics, by: camserve metrics {asked.theirs.name}")
    print(yaml.safe_dump(joined, sort_keys=False, width=200), end="")
    return 0


def join(theirs: Mapping[str, Any], shipped: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a metrics file's block with camserve's own metrics among its ``model_metrics``.

    ConfigError: it declares one of them otherwise.
    """
    joined = dict(theirs.get("model_metrics") or {})
    for kind, metrics in shipped.items():
        known = {each["name"]: each for each in joined.get(kind) or []}
        for ours in metrics:
            if not ours["name"].startswith(OURS):
                continue
            found = known.setdefault(ours["name"], ours)
            if found["dimensions"] != ours["dimensions"]:
                wanted = ", ".join(ours["dimensions"])
                raise ConfigError(f"{name}: {ours['name']} has other dimensions than {wanted}: leave it out")
        joined[kind] = list(known.values())
    return {**theirs, "model_metrics": joined}


def _read(path: Path) -> dict[str, Any]:
    """ConfigError: there is no such file, or it declares no metrics."""
    try:
        block = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(block, dict) or "ts_metrics" not in block:
        raise ConfigError(f"{path} is no TorchServe metrics.yaml: it has no 'ts_metrics'")
    return block
