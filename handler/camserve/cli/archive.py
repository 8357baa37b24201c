"""Build a .mar, after trying every sample photo with every method."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path

import yaml

from camserve.build.archive import build_archive
from camserve.build.baseline import measure_baseline
from camserve.build.pack import add_baseline
from camserve.build.recipe import Recipe, load_recipe
from camserve.cli.terminal import say
from camserve.errors import ConfigError
from camserve.strict import read

EXAMPLE = """examples:
  camserve archive config/models/imagenet.yaml
  camserve archive --name flowers --factory torchvision.models:resnet18 --factory-args '{"num_classes": 102}' \\
      --weights flowers.pt --labels flowers.txt --preprocess ResNet18_Weights.DEFAULT --sample rose.jpg
"""

# The keys of a recipe that an option of the same name gives.
FLAGS = (
    *("name", "version", "factory", "model_file", "bundle"),
    *("weights", "weights_key", "trust_pickle", "labels", "layer", "samples"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", nargs="?", type=Path, help="a model yaml, instead of the options below")
    parser.add_argument("--name", help="name of the archive and of the served model")
    parser.add_argument("--factory", help="MODULE:CALLABLE, or the callable's name in --model-file")
    parser.add_argument("--factory-args", metavar="JSON", help="keyword arguments of the factory")
    parser.add_argument("--model-file", metavar="FILE.py", help="a Python file that defines the network")
    parser.add_argument("--program", dest="weights", help="an exported program, .pt2, or TorchScript: no model code")
    parser.add_argument("--weights", help=".safetensors, or a checkpoint written by torch.save")
    parser.add_argument("--weights-key", metavar="KEY", help="which of several state dicts in a checkpoint: model, ema")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        default=None,
        help="unpickle the weights, which runs the code in them: for files of your own; a server never does",
    )
    parser.add_argument("--labels", help="a file of one name a line, or JSON; or 'imagenet'")
    parser.add_argument(
        "--preprocess", help="that of the weights: a yaml file, 'imagenet', or torchvision's ResNet18_Weights.DEFAULT"
    )
    parser.add_argument("--layer", help="target layer by name; default: found by probing")
    parser.add_argument("--bundle", nargs="+", metavar="MODULE", help="pure Python packages to carry along")
    parser.add_argument("--sample", nargs="+", metavar="IMAGE", dest="samples", help="photos to try and to carry along")
    parser.add_argument("--version", help="version of the served model")
    parser.add_argument("--out", type=Path, default=Path("model_store"), help="folder of the archive (model_store)")
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="photos to measure a baseline over")
    parser.add_argument("--baseline-labels", type=Path, metavar="FILE.csv", help="their classes: see camserve baseline")


def run(args: argparse.Namespace) -> int:
    """Build the archive."""
    sys.path.append(str(Path.cwd()))  # a factory may be a module of the project that one stands in
    recipe = load_recipe(args.recipe) if args.recipe else _recipe(args)
    if args.baseline is None:
        build_archive(recipe, args.out, say)
        return 0
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as folder:
        built = build_archive(recipe, Path(folder), say)
        baseline = measure_baseline(built, args.baseline, args.baseline_labels, date.today().isoformat(), say)
        add_baseline(built, args.out / built.name, baseline.write())
    say(f"wrote {args.out / built.name} with a baseline of {baseline.provenance.images} photos")
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    block = {name: getattr(args, name) for name in FLAGS if getattr(args, name) is not None}
    for name in ("name", "weights"):
        if name not in block:
            args.parser.error(f"--{name} is missing (or give a model yaml)")
    if args.factory_args:
        try:
            block["args"] = json.loads(args.factory_args)
        except ValueError as error:
            raise ConfigError(f"--factory-args is not JSON: {error}") from None
    if args.preprocess:
        path = Path(args.preprocess)
        is_file = path.suffix in (".yaml", ".yml", ".json")
        block["preprocess"] = yaml.safe_load(path.read_text(encoding="utf-8")) if is_file else args.preprocess
    return read(Recipe, block, "archive")
