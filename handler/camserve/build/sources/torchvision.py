"""A network of torchvision with a checkpoint: preprocessing and labels are those of the library's own weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camserve.build.weights.last_layer import need_weights, take_classes
from camserve.errors import ConfigError, nearest
from camserve.values import Progress

FORM = "torchvision:NAME with --weights"
SCHEME = "torchvision:"


def fits(text: str) -> bool:
    """Say whether a text names a network of torchvision."""
    return text.startswith(SCHEME)


def describe(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of a network of torchvision. ConfigError: it has no such classifier, or no weights are given."""
    from torchvision import models

    name = text[len(SCHEME) :]
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no classifier '{name}'{nearest(name, known)}")
    need_weights(text, given)
    library = models.get_model_weights(name)
    file = Path(given["weights"]).name
    own = next((weights for weights in library if Path(weights.url).name == file), None)
    arguments = take_classes(lambda: models.get_model(name), {}, given, report)
    block: dict[str, Any] = {"name": name, "factory": f"torchvision.models:{name}", "args": arguments}
    block["output"] = {"activation": "none"}  # as of all of the library's classifiers
    chosen = own or library.DEFAULT
    block["preprocess"] = f"{type(chosen).__name__}.{chosen.name}"
    if "preprocess" not in given:
        reason = f"the weights {file}" if own else f"assumed, torchvision's newest for {name}"
        report(f"preprocess {block['preprocess']}: {reason}")
    if not arguments and "labels" not in given:
        block["labels"] = "imagenet"
        report("labels imagenet: assumed, since there are 1000 classes")
    return block
