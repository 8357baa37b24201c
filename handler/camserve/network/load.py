"""Loading the classifier that an archive carries: network, weights, labels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from camserve.errors import ConfigError
from camserve.files import inside, sha256
from camserve.network.factory import build_network, load_score
from camserve.network.output import ScoringNetwork
from camserve.network.program import SUFFIX, load_program
from camserve.network.weights import load_weights, set_versions, versions_of
from camserve.settings import Settings


def load_network(folder: Path, settings: Settings, device: torch.device) -> ScoringNetwork:
    """Build the network and load its weights, frozen and in float32; no code in a pickle is ever run.

    ConfigError: the factory and the weights do not fit one another.
    """
    path = check_weights(folder, settings)
    if path.suffix == SUFFIX:
        network = load_program(path, [layer.name for layer in settings.layers], settings.input.shape)
    else:
        network = build_network(settings.model, folder)
        fill(network, load_weights(path))
    score = load_score(folder, settings.score, settings.defaults.context)
    return ScoringNetwork(network, *settings.outputs, score=score).eval().requires_grad_(False).to(device)


def check_weights(folder: Path, settings: Settings) -> Path:
    """Return the file of the network's weights. ConfigError: it is not the one that the archive was built with."""
    path = inside(folder, settings.model.weights)
    if (found := sha256(path)) != settings.model.sha256:
        raise ConfigError(f"{path.name} has the SHA-256 {found[:12]}..., not {settings.model.sha256[:12]}...")
    return path


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
