"""What ``camserve archive SOURCE`` takes besides a recipe: each kind is read into the keys of one.

A kind is a module of this folder. ``FORM`` is how it is written, ``fits(text)`` says whether a text is of it, and
``describe(text, given, report)`` returns the keys of a recipe; ``given`` are those that the person wrote, which win.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from camserve.build.sources import huggingface, model_file, timm, torchserve, torchvision, weights
from camserve.errors import ConfigError
from camserve.values import Progress

SOURCES: tuple[ModuleType, ...] = (huggingface, timm, torchvision, torchserve, model_file, weights)
JOINED = ("defaults", "limits", "quantise", "runtime", "serving")
RECIPE_SUFFIXES = (".yaml", ".yml")


def is_recipe(text: str) -> bool:
    """Say whether a source is a recipe: the other kinds are read into one."""
    return text.endswith(RECIPE_SUFFIXES)


def describe_source(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of a recipe that a source gives, with those that were ``given`` in their place.

    ``report`` gets a line for each choice. ConfigError: the source is of no kind, or lacks something.
    """
    for kind in SOURCES:
        if kind.fits(text):
            return _join(kind.describe(text, given, report), given)
    forms = ", ".join(kind.FORM for kind in SOURCES)
    raise ConfigError(f"'{text}' is no source: it must be RECIPE.yaml, {forms}")


def _join(block: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block of keys with those that were given in their place; of blocks in both, each key by itself."""
    joined = {**block, **given}
    for key in JOINED:
        if key in block and key in given:
            joined[key] = {**block[key], **given[key]}
    return joined
