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
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from camserve.build.archive import build_archive
from camserve.build.baseline import measure_baseline
from camserve.build.pack import add_baseline
from camserve.build.recipe import Recipe, load_recipe, read_yaml, write_recipe
from camserve.build.sources import describe_source, is_recipe
from camserve.choices import TORCHSERVE
from camserve.cli.terminal import say
from camserve.errors import ConfigError
from camserve.output_spec import ACTIVATIONS, TASKS
from camserve.strict import read

EXAMPLE = """examples:
  camserve archive config/models/imagenet.yaml
  camserve archive hf:my-vit --sample rose.jpg --save-recipe flowers.yaml
  camserve archive torchvision:resnet18 --weights flowers.pt --labels flowers.txt --sample rose.jpg
  camserve archive net.py:Net --weights net.pt --labels flowers.txt --preprocess imagenet --name flowers
  camserve archive old.mar --keep-answers
"""

# The keys of a recipe that an option of the same name gives.
FLAGS = (
    *("name", "version", "factory", "model_file", "bundle", "export", "task"),
    *("weights", "weights_key", "trust_pickle", "labels", "layer", "samples"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a recipe, or one of the sources above")
    parser.add_argument("--name", help="name of the archive and of the served model; default: the source's")
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
    parser.add_argument("--task", choices=TASKS, help="what the outputs mean; default: found, or asked for")
    parser.add_argument("--select", metavar="PATH", help="which output holds the scores: logits, 1, heads.color")
    parser.add_argument("--activation", choices=ACTIVATIONS, help="what stands at the network's end; default: found")
    parser.add_argument("--layer", help="target layer by name; default: found by probing")
    parser.add_argument("--bundle", nargs="+", metavar="MODULE", help="pure Python packages to carry along")
    parser.add_argument(
        "--export",
        action="store_true",
        default=None,
        help="carry the network as a program of torch.export: the server needs none of its packages",
    )
    parser.add_argument("--sample", nargs="+", metavar="IMAGE", dest="samples", help="photos to try and to carry along")
    parser.add_argument("--version", help="version of the served model")
    parser.add_argument(
        "--keep-answers",
        action="store_true",
        help="answer a request without options as TorchServe's image_classifier does: {label: probability}",
    )
    parser.add_argument("--save-recipe", type=Path, metavar="FILE.yaml", help="write what was built as a recipe")
    parser.add_argument("--out", type=Path, default=Path("model_store"), help="folder of the archive (model_store)")
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
    if args.baseline is None:
        build_archive(recipe, args.out, say)
        return
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as folder:
        built = build_archive(recipe, Path(folder), say)
        baseline = measure_baseline(built, args.baseline, args.baseline_labels, date.today().isoformat(), say)
        add_baseline(built, args.out / built.name, baseline.write())
    say(f"wrote {args.out / built.name} with a baseline of {baseline.provenance.images} photos")


def _recipe(args: argparse.Namespace) -> Recipe:
    given = _given(args)
    if args.source and is_recipe(args.source):
        if given:
            args.parser.error(f"a recipe says all by itself: write {', '.join(given)} into {args.source}")
        return load_recipe(Path(args.source))
    block = describe_source(args.source, given, say) if args.source else given
    for name in ("name", "weights"):
        if name not in block:
            args.parser.error(f"--{name} is missing (or give a SOURCE)")
    return read(Recipe, block, "archive")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of a recipe that the command line gives."""
    block = {name: getattr(args, name) for name in FLAGS if getattr(args, name) is not None}
    if args.factory_args:
        try:
            block["args"] = json.loads(args.factory_args)
        except ValueError as error:
            raise ConfigError(f"--factory-args is not JSON: {error}") from None
    if args.preprocess:
        path = Path(args.preprocess)
        block["preprocess"] = read_yaml(path) if path.suffix in (".yaml", ".yml", ".json") else args.preprocess
    chosen = {"select": args.select, "activation": args.activation}
    if any(chosen.values()):
        block["output"] = {key: value for key, value in chosen.items() if value is not None}
    if args.keep_answers:
        block["defaults"] = {"compat": TORCHSERVE}
    return block
