"""Finding the target layer of any image classifier by running it, never by its architecture's name.

The network is run on random pictures and every module's output is watched. What has positions and
gets a gradient at them carries evidence; the target layer is the last such output, before pooling.
"""

from __future__ import annotations

from torch import nn

from camserve.build.probe.search import FoundLayer, Search
from camserve.errors import ConfigError, nearest
from camserve.values import InputShape, Layer


def probe(network: nn.Module, shape: InputShape, seed: int = 0) -> FoundLayer:
    """Find the target layer for pictures of ``shape``, and tell what was passed over.

    The network comes back as it was. ConfigError: it fails on such pictures, or none of its modules
    carries evidence.
    """
    return Search(network, shape, seed).find()


def find_layer(network: nn.Module, shape: InputShape, seed: int = 0) -> Layer:
    """Find the target layer, as ``probe`` does."""
    return probe(network, shape, seed).layer


def check_layer(network: nn.Module, name: str, shape: InputShape, seed: int = 0) -> Layer:
    """Return the last call of the named module that carries evidence. ConfigError says why none does."""
    names = [module for module, _ in network.named_modules() if module]
    if name not in names:
        raise ConfigError(f"the network has no module named '{name}'{nearest(name, names)}")
    search = Search(network, shape, seed)
    layer, reason = search.check(name)
    if layer is None:
        raise ConfigError(f"layer '{name}' carries no evidence: {reason}; '{search.find().layer.name}' does")
    return layer
