"""The options that say what a recipe says, of ``camserve archive`` and ``camserve init``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from camserve.build.pairs import read_pair, read_value, set_value
from camserve.build.recipe import read_yaml
from camserve.build.server_keys import SERVER_KEYS
from camserve.choices import TORCHSERVE
from camserve.errors import ConfigError, nearest, quote
from camserve.output_spec import ACTIVATIONS, TASKS

# The keys of a recipe that an option of the same name gives.
FLAGS = (
    *("name", "version", "factory", "model_file", "bundle", "export", "task"),
    *("weights", "weights_key", "trust_pickle", "labels", "layer", "samples", "show_samples"),
    *("methods", "threshold", "units", "score"),
)
BLOCKS = ("defaults", "limits", "quantise", "runtime", "serving")  # keys of a recipe whose own keys --set gives


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Declare SOURCE and the options for the keys of a recipe."""
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
    parser.add_argument(
        "--show-samples",
        action="store_true",
        default=None,
        help="offer the first two on the page for browsers, to all who may ask the model",
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="map methods to serve (gradcam)")
    parser.add_argument(
        "--threshold", type=float, help="probability from which a label of multilabel is predicted (0.5)"
    )
    parser.add_argument("--units", nargs="+", metavar="UNIT", help="of the values of task regression, one each")
    parser.add_argument(
        "--score", metavar="MODULE:CALLABLE", help="what asks the network, with the context of each row"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"a key of {', '.join(BLOCKS[:-1])} or TorchServe: runtime.mode=openvino, batchSize=16",
    )
    parser.add_argument(
        "--calibrate", metavar="DIR", help="100 photos or more, every second of which calibrates precision int8"
    )
    parser.add_argument("--version", help="version of the served model")
    parser.add_argument(
        "--keep-answers",
        action="store_true",
        help="answer a request without options as TorchServe's image_classifier does: {label: probability}",
    )


def given_keys(args: argparse.Namespace) -> dict[str, Any]:
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
    if args.calibrate:
        block["quantise"] = {"photos": args.calibrate}
    if args.keep_answers:
        block["defaults"] = {"compat": TORCHSERVE}
    for key, text in map(read_pair, args.set):
        set_value(block, _way(key), read_value(key, text))
    return block


def _way(key: str) -> list[str]:
    """Return the keys that lead to a value of ``--set``. ConfigError: another option gives it, or there is none."""
    first = key.partition(".")[0]
    if first in BLOCKS:
        return key.split(".")
    if key in SERVER_KEYS:
        return ["serving", key]
    known = f"{', '.join(BLOCKS)}, and {', '.join(SERVER_KEYS)}"
    raise ConfigError(f"--set takes keys of {known}, not {quote(key)}{nearest(key, SERVER_KEYS)}")
