"""Every classifier of torchvision, every module of timm, and every image classifier of transformers, by its factory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from camserve.errors import ConfigError

SELECTED = {"PPLCNetForImageClassification": "last_hidden_state"}
TOO_MANY_PARAMETERS = 1e9  # parameters from which none is built


@dataclass(frozen=True)
class Source:
    """How one classifier is made, as a recipe says it."""

    name: str
    factory: str
    args: dict[str, str]
    select: str | None = None  # which output holds the scores, where it is not called so


@dataclass(frozen=True)
class Entry:
    """One classifier, or one of a module's where that registers several."""

    name: str
    choose: Callable[[], Source]


def torchvision_entries() -> Iterator[Entry]:
    """Name all of torchvision's classifiers."""
    from torchvision import models

    for name in models.list_models(module=models):
        yield Entry(name, functools.partial(Source, name, "torchvision.models:get_model", {"name": name}))


def timm_entries() -> Iterator[Entry]:
    """Name each of timm's modules; its smallest classifier stands for it."""
    import timm

    for module in timm.models.list_modules():
        yield Entry(module, functools.partial(_smallest, module))


def transformers_entries() -> Iterator[Entry]:
    """Name every image classifier of transformers, as its default configuration describes it."""
    from transformers import AutoModelForImageClassification

    for config, classifiers in AutoModelForImageClassification._model_mapping.items():
        yield Entry(config.__name__, functools.partial(_configured, config, classifiers))


def build_configured(classifier: str, config: str) -> nn.Module:
    """Build a classifier of transformers as its default configuration describes it."""
    import transformers

    network: nn.Module = getattr(transformers, classifier)(getattr(transformers, config)())
    return network


def _smallest(module: str) -> Source:
    import timm

    names = timm.list_models(module=module)
    # timm keeps toys for its own tests beside the real ones.
    names = [name for name in names if not name.startswith("test_")] or names
    if not names:
        raise ConfigError(f"timm.models.{module} registers no model")
    smallest = min(names, key=lambda name: _parameters(functools.partial(timm.create_model, name)))
    return Source(f"{module}: {smallest}", "timm:create_model", {"model_name": smallest})


def _configured(config: Callable[[], Any], classifiers: Any) -> Source:
    classifier = classifiers[0] if isinstance(classifiers, tuple) else classifiers
    count = _parameters(lambda: classifier(config()))
    if TOO_MANY_PARAMETERS < count < math.inf:
        raise ConfigError(f"{count / 1e9:.1f} G parameters in its default configuration")
    names = {"classifier": classifier.__name__, "config": getattr(config, "__name__", "")}
    return Source(classifier.__name__, "zoo_models:build_configured", names, SELECTED.get(classifier.__name__))


def _parameters(build: Callable[[], nn.Module]) -> float:
    """Count a network's parameters without making them; infinite where it cannot be built that way."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build().parameters())
    except Exception:
        return math.inf


MODEL_FAMILIES: Mapping[str, Callable[[], Iterator[Entry]]] = {
    "torchvision": torchvision_entries,
    "timm": timm_entries,
    "hf": transformers_entries,
}
