"""The modules beside a model file that it imports, found by reading its code: they travel with it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from camserve.errors import ConfigError, first_line

# A file beside the model file that is called as one of these is not what Python would import.
ALWAYS_INSTALLED = {
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "yaml",
    "camserve",
    *getattr(sys, "stdlib_module_names", ()),
}


def local_modules(model_file: Path) -> tuple[str, ...]:
    """Return the top-level modules that ``model_file`` imports, itself or through another, and that lie beside it.

    ConfigError: one of these files is not Python, or the model file is part of a package.
    """
    folder, waiting = model_file.parent, [model_file]
    if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(parse(model_file))):
        raise ConfigError(
            f"{model_file.name} imports relatively, as a part of the package {folder.resolve().name}: "
            f"--factory {folder.resolve().name}.{model_file.stem}:NAME --bundle {folder.resolve().name}, "
            f"run from {folder.resolve().parent}"
        )
    found: dict[str, None] = {}
    while waiting:
        for name in sorted(set(_imports(waiting.pop()))):
            files = [] if name in found or name in ALWAYS_INSTALLED else module_files(folder, name)
            if files and files != [model_file]:
                found[name] = None
                waiting.extend(files)
    return tuple(found)


def module_files(folder: Path, name: str) -> list[Path]:
    """Return the Python files of a module or package in ``folder``; a package's other files stay: weights, pictures."""
    if (folder / name).is_dir():
        return sorted(path for path in (folder / name).rglob("*.py") if "__pycache__" not in path.parts)
    return [folder / f"{name}.py"] if (folder / f"{name}.py").is_file() else []


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def parse(path: Path) -> ast.Module:
    """Return the code of a file. ConfigError: it is not Python."""
    try:
        return ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path.name} is not Python: {first_line(error)}") from None
