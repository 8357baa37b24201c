"""Files by name, wherever they are: on disk, inside an installed package, or inside an archive."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from functools import cache
from pathlib import Path

from camserve.build.mar.file import extract_all
from camserve.errors import ConfigError
from camserve.files import inside

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
    """Return the path behind a file name, package://module/path or archive.mar/path. ConfigError: there is none."""
    path = Path(name)
    if name.startswith(PACKAGE_SCHEME):
        module, _, inner = name[len(PACKAGE_SCHEME) :].partition("/")
        path = module_path(module) / inner
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    if archive is not None:
        return inside(unpack_kept(archive), str(path.relative_to(archive)))
    if not path.is_file():
        raise ConfigError(f"there is no file '{name}'")
    return path


def find_weights(name: str) -> Path:
    """Return the path behind a name, or a folder of transformers. ConfigError: there is neither."""
    return Path(name) if Path(name).is_dir() else find_file(name)


def unpack_kept(archive: Path) -> Path:
    """Return a folder of what an archive holds, which stays while this process runs. ConfigError: it is none."""
    try:
        return Path(_unpack(archive.resolve(), archive.stat().st_mtime_ns).name)
    except OSError as error:
        raise ConfigError(f"cannot read {archive}: {error.strerror or error}") from None


@cache
def _unpack(archive: Path, _changed: int) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="camserve-source-")
    try:
        extract_all(archive, Path(folder.name))
    except ConfigError:
        folder.cleanup()
        raise
    return folder


def archive_name(text: str) -> str:
    """Return a name that an archive may have, made of ``text``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "model"
