"""A file of model code, with --weights."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camserve.build.local_modules import parse
from camserve.build.locate import archive_name, find_file
from camserve.errors import ConfigError
from camserve.values import Progress

FORM = "FILE.py:NAME with --weights"


def fits(text: str) -> bool:
    """Say whether a text names a Python file."""
    return text.partition(".py:")[0] != text or text.endswith(".py")


def describe(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of a network whose code lies in a file. ConfigError: nothing says which name, or weights."""
    file, _, factory = text.rpartition(":") if ".py:" in text else (text, "", "")
    if "weights" not in given:
        raise ConfigError(f"{text} is code alone: --weights FILE gives the network's weights")
    if not factory and "factory" not in given:
        factory = only_class(find_file(file))
        report(f"factory {factory}: the one class of {Path(file).name}")
    return {"name": archive_name(Path(file).stem), "model_file": file, "factory": factory}


def only_class(file: Path) -> str:
    """Return the one class of a model file, as TorchServe finds it. ConfigError: there are more or none."""
    names = [node.name for node in parse(file).body if isinstance(node, ast.ClassDef)]
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ConfigError(f"{file.name} must define one class, not {found}: --factory says which, or a function")
    return names[0]
