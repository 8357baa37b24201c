"""Bounded chaos against a real server on loopback: kills, version swaps, overload, and a search for leaks.

Every loop counts its requests; only processes of servers started here are killed, by their process ids.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.recipe import load_recipe
from camserve.errors import CamserveError
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.values import Progress
from stress_hostile import COLUMNS, AttackRow, run_attacks
from stress_scenarios import (
    BATCH,
    LEAKED,
    StressLoad,
    StressRow,
    find_no_leak,
    find_planted_leak,
    flood_queue,
    kill_workers,
    swap_versions,
)
from written_network import write_network

STRESSED_RECIPE = Path("config/models/imagenet.yaml")
STOCK_PYTHON = Path(".venv-stock/bin/python")  # which scripts/check-stock makes
STRESS_PAGE = Path("docs/reliability.md")
MODEL = "imagenet"

LEAKY = f"""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, 4)
        self.head = nn.Linear(8, 2)
        self.kept = []

    def forward(self, pixels):
        self.kept.append(torch.ones({LEAKED // 4}))
        return self.head(self.features(pixels).mean((2, 3)))
"""


def run_scenarios(scale: float, report: Progress) -> list[StressRow]:
    """Run every scenario at ``scale`` times its full size. CamserveError: a server does not start."""

    def size(full: int) -> int:
        return max(BATCH, round(full * scale))

    photo = find_file("package://skimage/data/coffee.png").read_bytes()
    rows = []

    def done(row: StressRow) -> None:
        report(f"{'holds' if row.holds else 'FAILS'}  {row.what}: {row.observed}")
        rows.append(row)

    with tempfile.TemporaryDirectory(prefix="camserve-stress-") as name:
        folder = Path(name)
        recipe = load_recipe(STRESSED_RECIPE)
        first = build_archive(recipe, folder / "store", report)
        second = build_archive(dataclasses.replace(recipe, version="2.0"), folder / "second", report)
        second = second.rename(first.with_name("second.mar"))
        with Server([first], folder / "server", free_ports(19080), enable_model_api="true") as server:
            traffic = StressLoad(server, MODEL, photo)
            done(find_no_leak(traffic, size(5_000)))
            done(flood_queue(traffic, size(2_000)))
            done(kill_workers(traffic, size(400)))
            done(swap_versions(traffic, size(2_000), second.name))
        (folder / "leaky").mkdir()
        leaky = build_archive(write_network(folder / "leaky", "leaky", LEAKY), folder / "leaky" / "store", report)
        with Server([leaky], folder / "leaky" / "server", free_ports(19280)) as server:
            done(find_planted_leak(StressLoad(server, "leaky", photo), 1_000))
    return rows


def run_hostile(scale: float, python: Path, report: Progress) -> list[AttackRow]:
    """Run every attack at ``scale`` times its full size, on a server that runs in ``python``.

    CamserveError: the server does not start.
    """
    photo = find_file("package://skimage/data/coffee.png").read_bytes()
    rows = []
    with tempfile.TemporaryDirectory(prefix="camserve-stress-") as name:
        archive = build_archive(load_recipe(STRESSED_RECIPE), Path(name) / "store", report)
        with Server([archive], Path(name) / "server", free_ports(19080), python=python) as server:
            for row in run_attacks(StressLoad(server, MODEL, photo), scale):
                report("  ".join(row.columns()))
                rows.append(row)
    return rows


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write rows of texts as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_stress_table(rows: Sequence[StressRow]) -> str:
    """Write what was tried, required and observed."""
    columns = ("what", "required", "observed", "holds")
    return format_table(columns, [(row.what, row.required, row.observed, _yes(row.holds)) for row in rows])


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def write_stress_table(table: str, path: Path, mark: str) -> None:
    """Put a table into the report in the place of the last one between its marks."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(f"<!-- {mark} -->\n")
    tail = rest.partition(f"<!-- /{mark} -->")[2]
    path.write_text(f"{head}<!-- {mark} -->\n{table}\n<!-- /{mark} -->{tail}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and keep it if requested; the exit status is 1 where something does not hold."""
    parser = argparse.ArgumentParser(prog="scripts/studies/stress", description=__doc__)
    parser.add_argument("--hostile", action="store_true", help="attack the server beside a good client instead")
    parser.add_argument("--stock", action="store_true", help=f"with --hostile: on the packages of {STOCK_PYTHON}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of requests")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {STRESS_PAGE}")
    args = parser.parse_args(arguments)

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        if args.hostile:
            attacks = run_hostile(args.scale, STOCK_PYTHON.absolute() if args.stock else Path(sys.executable), report)
            table = format_table(COLUMNS, [row.columns() for row in attacks])
            mark = "hostile-stock" if args.stock else "hostile"
            holds = all(row.holds for row in attacks)
        else:
            rows = run_scenarios(args.scale, report)
            table, mark, holds = format_stress_table(rows), "stress", all(row.holds for row in rows)
    except CamserveError as error:
        print(f"camserve: {error}", file=sys.stderr)
        return 1
    print(table)
    if args.write:
        write_stress_table(table, STRESS_PAGE, mark)
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
