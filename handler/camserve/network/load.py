"""Loading the classifier that an archive carries: network, weights, labels."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from camserve.errors import ConfigError
from camserve.files import inside, sha256
from camserve.network.output import ScoringNetwork
from camserve.network.program import SUFFIX, load_program
from camserve.network.weights import load_weights, set_versions, versions_of
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
        network = load_program(path, [layer.name for layer in settings.layers], settings.input.size)
    else:
        network = build_network(settings.model, folder)
        fill(network, load_weights(path))
    return ScoringNetwork(network, settings.model.task == "binary").eval().requires_grad_(False).to(device)


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
    module_name, _, attribute = spec.factory.rpartition(":")
    if spec.file is None and not module_name:
        raise ConfigError(f"model.factory must be 'module:callable', not '{spec.factory}'")
    try:
        found: object = _module_of(inside(folder, spec.file)) if spec.file else _import(module_name, folder)
    except ImportError as error:
        raise ConfigError(f"model.factory {spec.factory} cannot be imported: {error}") from None
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise ConfigError(f"model.factory {spec.factory}: there is no callable '{attribute}'")
    return found


def _import(name: str, folder: Path) -> ModuleType:
    """Import from what is installed, else from what the archive bundles."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(name)


def _module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly. ConfigError names the first keys or shapes that do not fit."""
    try:
        missing, unexpected = network.load_state_dict(_with_versions(weights, network), strict=False)
    except Exception as error:  # RuntimeError of torch, or what a module's own loading raises
        raise ConfigError(f"the weights do not fit the network: {' '.join(str(error).split())[:300]}") from None
    if missing or unexpected:
        raise ConfigError(f"the weights do not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _with_versions(weights: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Take a whole state dict that does not say which versions of its modules wrote it for one of today's."""
    today = network.state_dict()
    if versions_of(weights) is not None or not today.keys() <= weights.keys():
        return weights
    known = OrderedDict(weights)
    set_versions(known, versions_of(today) or {})
    return known
