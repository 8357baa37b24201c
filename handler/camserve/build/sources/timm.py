"""A network of timm: with a checkpoint it gets the library's own preprocessing and labels, as a folder its own."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camserve.build.locate import archive_name, find_file
from camserve.build.preprocess.agreement import check_agreement
from camserve.build.weights.last_layer import need_weights, take_classes
from camserve.build.weights.pretrained import CONFIG, read_json_file
from camserve.errors import ConfigError, nearest
from camserve.values import Progress

FORM = "timm:NAME with --weights"
SCHEME = "timm:"
IMAGENET_CLASSES = 1000
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder


def fits(text: str) -> bool:
    """Say whether a text names a network of timm."""
    return text.startswith(SCHEME)


def describe(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of a network of timm. ConfigError: it has no such network, or no weights are given."""
    name = text[len(SCHEME) :]
    timm = _import_timm(text, name)
    need_weights(text, given)
    library = timm.get_pretrained_cfg(name)
    chosen = {"model_name": name}
    arguments = take_classes(lambda: timm.create_model(name), chosen, given, report)
    block: dict[str, Any] = {"name": archive_name(name), "factory": "timm:create_model", "args": arguments}
    block["output"] = {"activation": "none"}  # as of all of the library's classifiers
    if "preprocess" not in given:
        block["preprocess"] = _geometry(timm, library.to_dict(), name)
        report(f"preprocess {block['preprocess']}: assumed, timm's for {name}")
    if "num_classes" not in arguments and library.num_classes == IMAGENET_CLASSES and "labels" not in given:
        block["labels"] = "imagenet"
        report("labels imagenet: assumed, since there are 1000 classes")
    return block


def describe_folder(folder: Path, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of a network that timm saved for a hub. ConfigError: a file is missing, or is none of timm's."""
    config = read_json_file(folder / CONFIG)
    name = str(config["architecture"])
    timm = _import_timm(str(folder), name)
    saved = {**config, **config.get("pretrained_cfg", {})}  # older versions of timm wrote one level
    arguments = {"num_classes": config.get("num_classes", saved.get("num_classes")), **config.get("model_args", {})}
    file = next((file for file in WEIGHTS if (folder / file).is_file()), WEIGHTS[0])
    find_file(str(folder / file))
    block: dict[str, Any] = {"name": archive_name(folder.resolve().name), "factory": "timm:create_model"}
    block["args"] = {"model_name": name, **arguments}
    block |= {"weights": str(folder / file), "output": {"activation": "none"}}
    if "preprocess" not in given:
        side = arguments.get("img_size") or saved["input_size"][1:]
        size = [side, side] if isinstance(side, int) else side
        block["preprocess"] = _geometry(timm, {**saved, "input_size": [saved["input_size"][0], *size]}, name)
        report(f"preprocess {block['preprocess']}: from {CONFIG}")
    if "labels" not in given and (labels := _labels(config, saved, folder)):
        block["labels"] = labels
        report(f"labels {labels}")
    return block


def _labels(config: Mapping[str, Any], saved: Mapping[str, Any], folder: Path) -> str | None:
    if "label_names" in config or "label_names" in saved.get("pretrained_cfg", {}):
        return str(folder / CONFIG)
    return "imagenet" if config.get("num_classes", saved.get("num_classes")) == IMAGENET_CLASSES else None


def _import_timm(text: str, name: str) -> Any:
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise ConfigError(f"{text} needs timm: pip install timm") from None
    if not timm.is_model(name):
        raise ConfigError(f"timm has no network '{name}'{nearest(name, timm.list_models())}")
    return timm


def _geometry(timm: Any, library: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the input block of timm's evaluation transform. ConfigError: it cannot be written as one."""
    config = timm.data.resolve_data_config(pretrained_cfg=dict(library))
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
    check_agreement(block, timm.data.create_transform(**config, is_training=False), f"timm's transform for {name}")
    return block
