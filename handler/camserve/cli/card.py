"""Draw what classes and channels of an archive look for, as one page.

Pictures made by gradient ascent (class, channel, dream), an inverted representation, activations, and names of channels
by Network Dissection. Each says what it is and what it is not. It takes minutes, and nothing of it travels in the
archive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from camserve.build.write_file import write_text
from camserve.card.make import make_card
from camserve.card.plan import CardPlan
from camserve.cli.terminal import count, say

EXAMPLE = """examples:
  camserve card model_store/imagenet.mar --out card.html
  camserve card model_store/imagenet.mar --classes espresso,tabby --channels 3,17 --photo cup.jpg --out card.html
  camserve card model_store/imagenet.mar --concepts masks --out card.html   # masks/a.jpg and masks/a.fur.png
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("archive", type=Path, metavar="N.mar")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page")
    parser.add_argument(
        "--classes", type=_names, default=(), help="labels or indices with commas (the photo's best class)"
    )
    parser.add_argument(
        "--channels", type=_numbers, default=(), help="numbers with commas (three that carry that class)"
    )
    parser.add_argument("--layer", help="one of the archive's (its first)")
    parser.add_argument("--photo", type=Path, help="(the archive's first sample)")
    parser.add_argument(
        "--concepts", type=Path, metavar="FOLDER", help="photos with masks, beside the drawn colours and textures"
    )
    parser.add_argument("--steps", type=count, default=CardPlan.steps, help="for one picture (%(default)s)")
    parser.add_argument("--seed", type=int, default=CardPlan.seed, help="of noise and jitter (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draw, and write the page."""
    names = ("classes", "channels", "layer", "photo", "concepts", "steps", "seed")
    page = make_card(args.archive, CardPlan(**{name: getattr(args, name) for name in names}), say)
    write_text(args.out, page)
    print(args.out)
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    parts = _names(text)
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas, such as 3,17")
    return tuple(map(int, parts))
