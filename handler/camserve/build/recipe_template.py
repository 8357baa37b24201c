"""A recipe with every key in it: those that are said, and the others as comments, with what they are for."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from camserve.build.recipe import QuantiseChoice, RecipeDefaults
from camserve.output_spec import TASKS
from camserve.settings import Limits, RuntimeSpec

HEAD = (
    "# {name}: build it with `camserve archive {file}`. Paths are relative to this file; docs/sources.md says more.\n"
)
MISSING = "# MISSING: {what}.\n"
WIDTH = 110
# What each key is for, and an example or the usual value of one that is not said. The order is that of the file.
KEYS: dict[str, tuple[str, Any]] = {
    "name": ("Of the archive and of the served model.", "flowers"),
    "version": ("Of the served model.", "1.0"),
    "factory": ("What makes the network: MODULE:CALLABLE, or a name in model_file. A program needs none.", "Net"),
    "model_file": ("A Python file that defines the network.", "net.py"),
    "args": ("Keyword arguments of the factory.", {"num_classes": 3}),
    "weights": (".safetensors, a checkpoint of torch.save, or a program: .pt2, TorchScript.", "net.pt"),
    "weights_key": ("Which of several state dicts in a checkpoint.", "model"),
    "trust_pickle": ("Unpickle the weights when building, which runs the code in them: for files of your own.", False),
    "export": ("Carry the network as a program of torch.export: the server needs none of its packages.", False),
    "bundle": ("Installed pure Python packages to carry along.", ["my_package"]),
    "task": (f"What the outputs mean: {', '.join(TASKS)}. Found where it can be.", "multiclass"),
    "output": ("Which output holds the scores, and what stands at the network's end. Found.", {"select": "logits"}),
    "heads": (
        "Several outputs, each with its own select, activation, task, threshold, units and labels.",
        {"color": {"select": "0", "labels": "colors.txt"}, "shape": {"select": "1", "labels": "shapes.txt"}},
    ),
    "threshold": ("Probability from which a label of multilabel is predicted.", 0.5),
    "units": ("Of the values of task regression, one each.", ["cm"]),
    "labels": ("A file of one name a line, or JSON; or imagenet; or index.", "labels.txt"),
    "preprocess": (
        "That of the weights, never guessed: imagenet, a name of torchvision such as ResNet18_Weights.DEFAULT, or a "
        "block (docs/input.md).",
        {"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ),
    "layer": ("Target layer by name, or several; auto finds it by probing.", "auto"),
    "score": ("MODULE:CALLABLE that asks the network, with the context of each row.", "scores:ask"),
    "samples": ("Photos to try the archive with, which its self-test repeats at every load.", ["rose.jpg"]),
    "show_samples": ("Offer the first two on the page for browsers, to all who may ask the model.", True),
    "expect": (
        "What another implementation predicts for a sample.",
        {"rose.jpg": {"label": "rose", "probability": 0.9}},
    ),
    "methods": ("Map methods to serve (docs/answers.md).", ["gradcam"]),
    "runtime": ("How the network is run (docs/performance.md).", dataclasses.asdict(RuntimeSpec())),
    "quantise": ("How runtime.precision int8 is made, and what it may change.", dataclasses.asdict(QuantiseChoice())),
    "defaults": (
        "Options of a request that does not give them (README.md).",
        dataclasses.asdict(RecipeDefaults()),
    ),
    "limits": ("Of a request.", dataclasses.asdict(Limits())),
    "serving": (
        "TorchServe's own keys.",
        {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 10, "responseTimeout": 30},
    ),
}


def write_template(block: Mapping[str, Any], file: str, missing: Mapping[str, str]) -> str:
    """Return the text of a recipe ``file``: the keys of ``block``, and all others as comments.

    ``missing`` says of keys that must be said what they should be.
    """
    parts = [HEAD.format(name=block["name"], file=file)]
    for key, (purpose, example) in KEYS.items():
        comment = "".join(f"# {line}\n" for line in textwrap.wrap(purpose, WIDTH))
        if key in missing:
            comment += MISSING.format(what=missing[key])
        if key in block:
            parts.append(comment + _dump({key: block[key]}))
        else:
            parts.append(comment + textwrap.indent(_dump({key: example}), "# "))
    return "\n".join(parts)


def _dump(block: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(block), sort_keys=False, allow_unicode=True, width=WIDTH)
