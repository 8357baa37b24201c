"""What an archive's code imports that TorchServe's stock image lacks, found without running or importing any of it."""

from __future__ import annotations

import ast
import pkgutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from camserve.build.mar.file import OWN, open_mar, read_member
from camserve.errors import ConfigError
from camserve.settings import Settings

# Modules of the image pytorch/torchserve:0.12.0 (docker/Dockerfile and requirements/ of its release).
STOCK = {
    *("torch", "torchvision", "torchaudio", "numpy", "PIL", "yaml", "captum", "matplotlib", "packaging", "requests"),
    *("psutil", "pynvml", "ts", "typing_extensions"),
}
STOCK_TORCH = "TorchServe's stock image has 2.4.0"
MOST_CODE = 64_000_000  # bytes, of all files


def _standard_library() -> frozenset[str]:
    """Return the modules that Python itself brings; 3.9 does not list them."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = pkgutil.iter_modules([str(folder), str(folder / "lib-dynload")])
    return frozenset({*sys.builtin_module_names, *(module.name for module in found)})


STDLIB: frozenset[str] = getattr(sys, "stdlib_module_names", None) or _standard_library()


def foreign_modules(modules: Iterable[str]) -> set[str]:
    """Return those modules that the stock image lacks."""
    return {name for name in modules if name not in STOCK and name not in STDLIB}


def imported_packages(path: Path, settings: Settings) -> list[str]:
    """Return the packages that an archive's code imports, and that neither it nor the stock image has.

    An import inside a function, a condition or a ``try`` is taken for one that can be done without. ConfigError: the
    archive is broken, or holds more code than is read.
    """
    model = settings.model
    named = [settings.score, settings.input.transform, model.factory if model.file is None else None]
    found = {name.partition(":")[0].partition(".")[0] for name in named if name is not None}
    with open_mar(path) as archive:
        names = archive.namelist()
        code = [name for name in names if name.endswith(".py") and not name.startswith(OWN)]
        size = sum(archive.getinfo(name).file_size for name in code)
        if size > MOST_CODE:
            raise ConfigError(f"{path} holds {size} bytes of Python code, and {MOST_CODE} are read")
        for name in code:
            found.update(_imports(read_member(archive, name, MOST_CODE)))
    carried = {name.partition("/")[0].removesuffix(".py") for name in names}
    return sorted(foreign_modules(found) - carried - {""})


def _imports(source: bytes) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own odd texts
            body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # a server will say what is wrong with it
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]
