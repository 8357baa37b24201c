"""Files by name, wherever they are: on disk or inside an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from camserve.errors import ConfigError

PACKAGE_SCHEME = "package://"


def module_path(module: str) -> Path:
    """Return the file or folder of an installed module. ConfigError: it is not installed."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the package around it is missing, or this is no module's name
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"there is no installed module '{module}'")
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def find_file(name: str) -> Path:
    """Return the path behind a file name or package://module/path. ConfigError: there is no such file."""
    path = Path(name)
    if name.startswith(PACKAGE_SCHEME):
        module, _, inner = name[len(PACKAGE_SCHEME) :].partition("/")
        path = module_path(module) / inner
    if not path.is_file():
        raise ConfigError(f"there is no file '{name}'")
    return path
