"""Build a .mar from what you have on disk, after trying every sample photo with every method.

SOURCE is a recipe (a yaml file), or one of:
  hf:FOLDER               written by transformers' save_pretrained, or by timm's save_for_hf
  timm:NAME               with --weights
  torchvision:NAME        with --weights
  net.py:NAME             a class or function of a model file, with --weights
  model.pt2, model.pt     an exported program, or TorchScript
  checkpoint.pth          with --factory
  old.mar                 an archive of TorchServe's image_classifier
Nothing is downloaded. What is assumed is printed; an option wins over what a source says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import date
from pathlib import Path

from camserve.build.archive import build_archive
from camserve.build.baseline.measure import measure_baseline
from camserve.build.mar.pack import add_baseline
from camserve.build.recipe import Recipe, load_recipe, write_recipe
from camserve.build.sources import describe_source, is_recipe
from camserve.cli.recipe_options import add_recipe_options, given_keys
from camserve.cli.terminal import say
from camserve.errors import ConfigError
from camserve.strict import read

EXAMPLE = """examples:
  camserve archive config/models/imagenet.yaml
  camserve archive hf:my-vit --sample rose.jpg --save-recipe flowers.yaml
  camserve archive torchvision:resnet18 --weights flowers.pt --labels flowers.txt --sample rose.jpg
  camserve archive net.py:Net --weights net.pt --labels flowers.txt --preprocess imagenet --name flowers
  camserve archive old.mar --keep-answers
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recipe_options(parser)
    parser.add_argument("--save-recipe", type=Path, metavar="FILE.yaml", help="write what was built as a recipe")
    parser.add_argument(
        "--out", type=Path, default=Path("model_store"), help="folder of the archive, or FOLDER/NAME.mar (model_store)"
    )
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="photos to measure a baseline over")
    parser.add_argument("--baseline-labels", type=Path, metavar="FILE.csv", help="their classes: see camserve baseline")


def run(args: argparse.Namespace) -> int:
    """Build the archive."""
    sys.path.append(str(Path.cwd()))  # a factory may be a module of the project that one stands in
    recipe = _recipe(args)
    _build(recipe, args)
    if args.save_recipe:
        write_recipe(recipe, args.save_recipe)
        say(f"wrote {args.save_recipe}")
    return 0


def _build(recipe: Recipe, args: argparse.Namespace) -> None:
    out = _folder(args.out, recipe.name)
    if args.baseline is None:
        build_archive(recipe, out, say)
        return
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as folder:
        built = build_archive(recipe, Path(folder), say)
        baseline = measure_baseline(built, args.baseline, args.baseline_labels, date.today().isoformat(), say)
        add_baseline(built, out / built.name, baseline.write())
    say(f"wrote {out / built.name} with a baseline of {baseline.provenance.images} photos")


def _folder(out: Path, name: str) -> Path:
    """Return the folder for NAME.mar, which ``out`` is or names. ConfigError: it is another file."""
    if out.is_dir():
        return out
    if out.suffix == ".mar":
        if out.stem != name:
            raise ConfigError(f"--out {out} would be an archive of {name}: write --out {out.parent / name}.mar")
        return out.parent
    if out.exists():
        raise ConfigError(f"--out {out} is a file: name the folder of {name}.mar")
    return out


def _recipe(args: argparse.Namespace) -> Recipe:
    given = given_keys(args)
    if args.source and is_recipe(args.source):
        if given:
            args.parser.error(f"a recipe says all by itself: write {', '.join(given)} into {args.source}")
        return load_recipe(Path(args.source))
    block = describe_source(args.source, given, say) if args.source else given
    for name in ("name", "weights"):
        if name not in block:
            args.parser.error(f"--{name} is missing (or give a SOURCE)")
    return read(Recipe, block, "archive")
