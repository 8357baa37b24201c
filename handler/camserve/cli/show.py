"""Draw what camserve explain kept in a folder: all of it, or chosen pictures."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from camserve.bulk.chosen import RowFilter
from camserve.bulk.command import read_saves
from camserve.bulk.folder import read_spec
from camserve.bulk.options import LOOKS, check_options, look_of
from camserve.bulk.outputs import OUTPUTS, write_outputs
from camserve.bulk.run import read_run
from camserve.cli.terminal import count, say
from camserve.drift.run_records import SHARDS

EXAMPLE = """examples:
  camserve show run --save gallery
  camserve show run --warning WEAK_EVIDENCE --below 0.5 --limit 100 --save images,sheet --out doubtful
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", type=Path, metavar="FOLDER", help="what --out of camserve explain was")
    parser.add_argument("--save", default="images", metavar="LIST", help=f"what is written: {', '.join(OUTPUTS)}")
    parser.add_argument("--out", type=Path, help="where (FOLDER itself)")
    parser.add_argument("--path", metavar="PATTERN", help="pictures whose path fits, such as '*/night/*'")
    parser.add_argument("--class", dest="label", metavar="LABEL", help="pictures of this best class")
    parser.add_argument("--warning", metavar="CODE", help="pictures with this warning")
    parser.add_argument("--below", type=float, metavar="P", help="pictures whose best class is less probable")
    parser.add_argument("--failed", action="store_true", help="pictures without an answer")
    parser.add_argument("--limit", type=count, metavar="N", help="the first N of them")
    for name in ("format", *LOOKS):
        parser.add_argument(f"--{name}", help=f"as of camserve explain: {name}")


def run(args: argparse.Namespace) -> int:
    """Draw the chosen rows."""
    saves = read_saves(args.save)
    if "parquet" in saves:
        args.parser.error("--save parquet is camserve explain's")
    looks = {name: getattr(args, name) for name in ("format", *LOOKS) if getattr(args, name) is not None}
    check_options(looks, None)
    spec, out = read_spec(args.run_folder), args.out or args.run_folder
    out.mkdir(parents=True, exist_ok=True)
    row_filter = RowFilter(args.path, args.label, args.warning, args.below, args.failed, args.limit)
    is_kept = out == args.run_folder and not (out / SHARDS).is_dir()
    wanted = [name for name in saves if not (is_kept and name == "jsonl")]
    look = replace(look_of(looks, None), weak_below=spec.weak_below)
    for line in write_outputs(wanted, lambda: row_filter.rows(read_run(args.run_folder)), out, look, say):
        say(line)
    return 0
