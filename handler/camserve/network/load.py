"""Loading the classifier that an archive carries: network, weights, labels."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from camserve.errors import ConfigError, first_line
from camserve.files import inside, sha256
from camserve.input_spec import InputSpec
from camserve.network.output import ScoringNetwork
from camserve.network.program import SUFFIX, load_program
from camserve.network.weights import load_weights
from camserve.settings import ModelSpec, Settings

logger = logging.getLogger(__name__)


def load_network(folder: Path, settings: Settings, device: torch.device) -> ScoringNetwork:
    """Build the network and load its weights, frozen and in float32; no pickle is ever read.

    ConfigError: the factory and the weights do not fit one another.
    """
    path = inside(folder, settings.model.weights)
    if (found := sha256(path)) != settings.model.sha256:
        raise ConfigError(f"{path.name} has the SHA-256 {found[:12]}..., not {settings.model.sha256[:12]}...")
    if path.suffix == SUFFIX:
        network = load_program(path, [layer.name for layer in settings.layers], settings.input.shape)
    else:
        network = build_network(settings.model, folder)
        fill(network, load_weights(path))
    return ScoringNetwork(network, settings.output, settings.model.task).eval().requires_grad_(False).to(device)


def build_network(spec: ModelSpec, folder: Path) -> nn.Module:
    """Call the factory. ConfigError: it cannot be imported, fails, or makes no network."""
    factory = _factory(spec, folder)
    try:
        network = factory(**spec.args)
    except Exception as error:
        raise ConfigError(f"model.factory {spec.factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.factory {spec.factory} made a {type(network).__name__}, not a torch.nn.Module")
    return network


def _factory(spec: ModelSpec, folder: Path) -> Callable[..., object]:
    assert spec.factory is not None
    return _load_callable(spec.factory, spec.file, folder, "model.factory")


def load_transform(folder: Path, spec: InputSpec) -> Callable[..., object] | None:
    """Return the archive's own transform of pictures. None: it has none. ConfigError: it cannot be imported."""
    return None if spec.transform is None else _load_callable(spec.transform, None, folder, "input.transform")


def _load_callable(name: str, file: str | None, folder: Path, key: str) -> Callable[..., object]:
    """Return a callable of the archive's ``file``, or of a module; ``key`` is the setting that names it."""
    module_name, _, attribute = name.rpartition(":")
    if file is None and not module_name:
        raise ConfigError(f"{key} must be 'module:callable', not '{name}'")
    try:
        found: object = _module_of(inside(folder, file)) if file else _import(module_name, folder)
    except Exception as error:  # a module may raise anything
        raise ConfigError(f"{key} {name} cannot be imported: {first_line(error)}") from None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"{key} {name}: there is no callable '{attribute}'")
    return found


def _import(name: str, folder: Path) -> ModuleType:
    """Import a file of the archive, else from what is installed, else from what the archive bundles."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    path = folder / f"{name}.py"
    # Not by its name: another archive of the same process may have a file of that name.
    return _module_of(path) if path.is_file() else importlib.import_module(name)


def _module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load a state dict strictly. ConfigError names the first keys or shapes that do not fit."""
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ConfigError(f"the weights do not fit the network: {' '.join(str(error).split())[:300]}") from None
    if missing or unexpected:
        raise ConfigError(f"the weights do not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}")
