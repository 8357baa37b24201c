"""Predict and explain pictures, with an archive in this process or with a running server.

SOURCE is a picture, a folder, a pattern in quotes, or a list: .csv or .parquet with a column path, .txt. Without --out
the answers are printed. With --out FOLDER they are kept there, and the same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from camserve.bulk.command import SAVES, failure_lines, keep_answers, make_job, read_saves, show_answers
from camserve.bulk.images import PICTURES
from camserve.bulk.run import ENGINES, RAY, Job
from camserve.cli.terminal import INTERRUPTED, count, say, write
from camserve.intake.option_parsers import PARSERS

EXAMPLE = """examples:
  camserve explain photo.jpg --archive model_store/imagenet.mar --out why.png
  camserve explain photo.jpg --url http://127.0.0.1:8080/predictions/imagenet --token TOKEN --target espresso
  camserve explain photos --archive model_store/imagenet.mar --out run --save images,sheet,gallery,csv
  camserve explain paths.parquet --archive model_store/imagenet.mar --out run --save parquet
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--archive", type=Path, help="a .mar; needs no server")
    source.add_argument("--url", help="a model's address: http://HOST:PORT/predictions/MODEL")
    parser.add_argument("--token", help="the server's inference token (key_file.json)")
    parser.add_argument("--out", type=Path, help="a folder; or, for one photo, the picture to draw")
    parser.add_argument("--save", metavar="LIST", help=f"what is written into the folder (images): {', '.join(SAVES)}")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="of --save parquet: local, this machine's cores; ray, those of the cluster at RAY_ADDRESS, or of this "
        "machine (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the answer, or a list of answers")
    parser.add_argument("--workers", type=count, help="processes of --save parquet; requests at once with --url")
    parser.add_argument("--shard-size", type=count, default=500, help="pictures in a Parquet file (500)")
    parser.add_argument("--grid", choices=("uint8", "float16"), default="uint8", help="maps in Parquet (uint8)")
    for name in PARSERS:
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"request option {name}")


def run(args: argparse.Namespace) -> int:
    """Ask about every picture, and show or keep the answers."""
    options = {name: getattr(args, name) for name in PARSERS if getattr(args, name) is not None}
    one = args.out is None or (args.out.suffix.lower() in PICTURES and not args.out.is_dir())
    if one and args.save:
        args.parser.error("--save needs --out FOLDER")
    if args.json and not one:
        args.parser.error("--json prints the answers: without --out FOLDER, which keeps them")
    if one and args.engine == RAY:
        args.parser.error("--engine ray needs --out FOLDER")
    saves = [] if one else read_saves(args.save or ("parquet" if args.engine == RAY else "images"))
    job = make_job(
        Job(args.sources, options, args.archive, None, args.url or "", args.token, args.workers, args.engine)
    )
    try:
        if one:
            outcome = show_answers(job, args.json, args.out, write, say)
        else:
            outcome = keep_answers(job, args.out, saves, args.grid, args.shard_size, say)
    except KeyboardInterrupt:
        say("ended" if one else f"ended: what was answered is kept in {args.out}; the same command goes on")
        return INTERRUPTED
    for line in failure_lines(outcome):
        say(line)
    return 1 if outcome.failed else 0
