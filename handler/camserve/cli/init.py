"""Write a recipe with every key in it: what the options and SOURCE say, and the rest as comments.

SOURCE is one that camserve archive takes, or a file of model code alone. A model file is read, not run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from camserve.build.locate import archive_name, find_file
from camserve.build.recipe import Recipe, recipe_block
from camserve.build.recipe_template import write_template
from camserve.build.sources import describe_source, is_recipe
from camserve.build.sources.model_file import only_class
from camserve.build.write_file import write_text
from camserve.cli.recipe_options import add_recipe_options, given_keys
from camserve.cli.terminal import say
from camserve.errors import ConfigError
from camserve.strict import read

EXAMPLE = """examples:
  camserve init net.py --weights net.pt --labels flowers.txt --preprocess imagenet
  camserve init torchvision:resnet18 --weights flowers.pt --sample rose.jpg --out recipes/flowers.yaml
"""
WEIGHTS = "net.pt"  # a name to be replaced
MISSING = {
    "weights": "the file of the network's weights",
    "preprocess": "that of the weights; an archive cannot be built without",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recipe_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.yaml", help="the recipe; default: NAME.yaml, which is new")


def run(args: argparse.Namespace) -> int:
    """Write the recipe, and say what it still lacks."""
    block = _block(args)
    path = args.out or Path(f"{block['name']}.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists: name a new file with --out")
    missing = {key: what for key, what in MISSING.items() if key not in block}
    recipe = read(Recipe, {"weights": WEIGHTS, **block}, "init")
    shown = recipe_block(recipe, path)
    if "weights" in missing:
        shown["weights"] = WEIGHTS  # as it is, wherever the recipe lies
    write_text(path, write_template(shown, str(path), missing))
    for key, what in missing.items():
        say(f"{path} lacks {key}: {what}")
    print(f"wrote {path}; then: camserve archive {path}")
    return 0


def _block(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keys that the command line says. ConfigError: nothing gives the model a name."""
    given = given_keys(args)
    if args.source and is_recipe(args.source):
        raise ConfigError(f"{args.source} is a recipe already: camserve archive {args.source}")
    if args.source and "weights" not in given and ".py" in args.source:
        return {**_read_model_file(args.source), **given}
    block = describe_source(args.source, given, say) if args.source else given
    origin = block.get("model_file") or block.get("weights")
    if "name" not in block and origin is None:
        args.parser.error("--name is missing (or give a SOURCE)")
    return {"name": archive_name(Path(str(origin)).stem), **block}


def _read_model_file(source: str) -> dict[str, Any]:
    """Return what a file of model code says by itself. ConfigError: it has several classes, and none is named."""
    file, _, factory = source.partition(".py:")
    path = source if source.endswith(".py") else f"{file}.py"
    factory = factory or only_class(find_file(path))
    return {"name": archive_name(Path(path).stem), "model_file": path, "factory": factory}
