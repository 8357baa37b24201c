"""What must be installed on a server beside the archive, and whether TorchServe's stock image has it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata

from torch import nn

from camserve.build.mar.stock import STOCK, foreign_modules
from camserve.network.factory import MODEL_FILE
from camserve.settings import ModelSpec

DISTRIBUTION = re.compile(r"[A-Za-z0-9._-]+")


def describe_needs(network: nn.Module, spec: ModelSpec, bundle: Collection[str]) -> list[str]:
    """Return a line on the packages that a server needs for a network, where it needs any."""
    modules = {type(module).__module__ for module in network.modules()}
    if spec.file is None and spec.factory is not None:
        modules.add(spec.factory.partition(":")[0])
    carried = {*bundle, *spec.modules, MODEL_FILE, "camserve"}
    needed = foreign_modules(module.partition(".")[0] for module in modules) - carried
    lines = []
    if needed:
        names = ", ".join(map(_with_version, sorted(needed)))
        lines.append(
            f"the server needs {names}, which TorchServe's stock image lacks: install there, carry pure Python with "
            "--bundle, or --export"
        )
    for module in bundle:
        if behind := _needs_of(module) - carried:
            lines.append(f"bundle: {module} itself needs {', '.join(sorted(behind))}: install or bundle these too")
    return lines


def _with_version(module: str) -> str:
    """Return the distribution of a module and its version; the module alone where it is not installed as one."""
    names = _providers().get(module)
    return f"{names[0]} {metadata.version(names[0])}" if names else module


def _needs_of(module: str) -> set[str]:
    """Return the modules that the distribution of a module requires, without extras, and that a stock image lacks."""
    providers = _providers()
    required = [line for name in providers.get(module, [])[:1] for line in metadata.requires(name) or ()]
    names = {_normal(found[0]) for line in required if "extra ==" not in line and (found := DISTRIBUTION.match(line))}
    stock = {_normal(owner) for inner, owners in providers.items() if inner in STOCK for owner in owners}
    modules = {inner for inner, owners in providers.items() if (names - stock) & set(map(_normal, owners))}
    return foreign_modules(name for name in modules if not name.startswith("_"))


@cache  # it reads the list of files of every installed package
def _providers() -> Mapping[str, list[str]]:
    """Return the distributions that hold each top-level module; none on Python 3.9, which cannot tell."""
    found: Mapping[str, list[str]] = getattr(metadata, "packages_distributions", dict)()
    return found


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
