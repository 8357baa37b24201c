"""A network of timm with a checkpoint: preprocessing and labels are those of the library's own weights."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from camserve.build.agreement import check_agreement
from camserve.build.last_layer import need_weights, take_classes
from camserve.build.locate import archive_name
from camserve.errors import ConfigError, nearest
from camserve.values import Progress

FORM = "timm:NAME with --weights"
SCHEME = "timm:"
IMAGENET_CLASSES = 1000


def fits(text: str) -> bool:
    """Say whether a text names a network of timm."""
    return text.startswith(SCHEME)


def describe(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of a network of timm. ConfigError: it has no such network, or no weights are given."""
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise ConfigError(f"{text} needs timm: pip install timm") from None
    name = text[len(SCHEME) :]
    if not timm.is_model(name):
        raise ConfigError(f"timm has no network '{name}'{nearest(name, timm.list_models())}")
    need_weights(text, given)
    library = timm.get_pretrained_cfg(name)
    chosen = {"model_name": name}
    arguments = take_classes(lambda: timm.create_model(name), chosen, given, report)
    block: dict[str, Any] = {"name": archive_name(name), "factory": "timm:create_model", "args": arguments}
    block["output"] = {"activation": "none"}  # as of all of the library's classifiers
    if "preprocess" not in given:
        block["preprocess"] = _geometry(timm, library)
        report(f"preprocess {block['preprocess']}: assumed, timm's for {name}")
    if "num_classes" not in arguments and library.num_classes == IMAGENET_CLASSES and "labels" not in given:
        block["labels"] = "imagenet"
        report("labels imagenet: assumed, since there are 1000 classes")
    return block


def _geometry(timm: Any, library: Any) -> dict[str, Any]:
    """Return the input block of timm's evaluation transform. ConfigError: it cannot be written as one."""
    config = timm.data.resolve_data_config(pretrained_cfg=library.to_dict())
    height, width = config["input_size"][1:]
    scaled = [math.floor(side / config["crop_pct"]) for side in (height, width)]
    squashed = config["crop_mode"] == "squash" or height != width
    block = {
        "resize": scaled if squashed else scaled[0],
        "crop": height if height == width else [height, width],
        "interpolation": config["interpolation"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
    check_agreement(
        block, timm.data.create_transform(**config, is_training=False), f"timm's transform for {library.architecture}"
    )
    return block
