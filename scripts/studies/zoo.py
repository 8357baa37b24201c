"""Serve every classifier of torchvision, timm and transformers from an archive of its own, and check its map.

Prints one line a model; the exit status is 1 if a model that could be built failed.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import sys
from pathlib import Path

import torch

from zoo_archive import ZooRow, try_out
from zoo_models import MODEL_FAMILIES

ZOO_COLUMNS = ("model", "input", "layer", "layout", "grid", "prefix", "call", "share", "agreement", "seconds")
HEAD = f"| {' | '.join(ZOO_COLUMNS)} |\n{'|---' * len(ZOO_COLUMNS)}|"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/studies/zoo", description=__doc__)
    parser.add_argument("--family", choices=MODEL_FAMILIES, nargs="+", default=list(MODEL_FAMILIES))
    parser.add_argument("--limit", type=int, help="try the first N models of a family only")
    parser.add_argument("--most", type=float, default=1e9, metavar="N", help="leave out networks of more parameters")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names to try, such as 'vit_*'")
    parser.add_argument("--out", type=Path, help="write the table here too, as Markdown")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failed, lines = 0, []
    for family in args.family:
        entries = (entry for entry in MODEL_FAMILIES[family]() if fnmatch.fnmatch(entry.name, args.only))
        rows = []
        lines += [f"\n## {family}\n", HEAD]
        for entry in itertools.islice(entries, args.limit):
            rows.append(try_out(entry, args.most))
            lines.append(format_row(rows[-1]))
            print(lines[-1], flush=True)
        built = [row for row in rows if row.built]
        passed = sum(row.passed for row in built)
        failed += len(built) - passed
        total = f"{family}: {passed} of {len(built)} pass, {len(rows) - len(built)} cannot be built here"
        lines.append(f"\n{total}")
        print(total, flush=True)
    if args.out:
        args.out.write_text("\n".join(["# The zoo", *lines, ""]), encoding="utf-8")
    return int(failed > 0)


def format_row(row: ZooRow) -> str:
    if not row.layers:
        return f"| {row.name} | {'FAILS' if row.built else 'not built'}: {row.reason} |"
    layer, (_channels, height, width) = row.layers[0], row.shape
    cells: tuple[object, ...] = (
        row.name,
        f"{height} x {width}",
        " + ".join(f"`{read.name}`" for read in row.layers),
        layer.layout,
        "{} x {}".format(*layer.grid),
    )
    cells += (layer.prefix, layer.call, f"{row.share:.2f}", f"{row.agreement:.0e}", f"{row.seconds:.1f}")
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
