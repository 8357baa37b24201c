"""How many classes a checkpoint knows, where its network's constructor must be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from camserve.build.locate import find_file
from camserve.build.weights.checkpoint import find_state_dict
from camserve.build.weights.read import read_checkpoint
from camserve.errors import ConfigError
from camserve.values import Progress


def need_weights(source: str, given: Mapping[str, Any]) -> None:
    """Refuse a source that is code alone. ConfigError."""
    if "weights" not in given:
        raise ConfigError(f"{source} needs --weights FILE: nothing is downloaded")
    find_file(given["weights"])


def take_classes(
    build: Callable[[], nn.Module], arguments: Mapping[str, Any], given: Mapping[str, Any], report: Progress
) -> dict[str, Any]:
    """Return a constructor's arguments, with ``num_classes`` where the weights have another number than is usual."""
    if "args" in given:
        return dict(arguments)
    with torch.device("meta"):
        usual = build()
    file = find_file(given["weights"])
    loaded = read_checkpoint(file, given.get("trust_pickle", False))
    weights, _ = find_state_dict(usual, loaded, file.name, given.get("weights_key"))
    shapes = {
        (tuple(tensor.shape), tuple(weights[name].shape))
        for name, tensor in usual.state_dict().items()
        if name in weights and tensor.shape != weights[name].shape
    }
    classes = {ours[0] for _, ours in shapes if ours}
    if len(classes) != 1 or any(theirs[1:] != ours[1:] for theirs, ours in shapes):
        return dict(arguments)  # what does not fit is named when the weights are loaded
    (count,) = classes
    report(f"num_classes {count}: from the last layer of {file.name}")
    return {**arguments, "num_classes": count}
