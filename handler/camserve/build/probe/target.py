"""The layers that an archive's maps are read at, and how much of what makes scores differ passes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from camserve.build.probe.search import NoEvidence, Search
from camserve.build.probe.share import ENOUGH, check_edges, share_through
from camserve.network.output import ScoringNetwork
from camserve.values import Layer

MOST_MEMBERS = 8  # of an ensemble


@dataclass(frozen=True)
class TargetLayers:
    """Where the maps of a network are read."""

    layers: tuple[Layer, ...]
    members: tuple[str, ...] = ()  # those whose maps are added up
    share: float = 1.0  # of the scores' variance that passes the members together
    gradients: bool = True  # False: none reaches a layer, and only methods without gradients explain the network


def find_target(network: ScoringNetwork, pixels: Tensor, shown: Tensor | None = None, seed: int = 0) -> TargetLayers:
    """Find the target layer for (N, C, H, W) pictures, three at least, and the further members of an ensemble.

    Shares are measured on the pictures ``shown``, None: on the same.

    Members are added while less than ``ENOUGH`` of the scores' variance passes those that are known and the next has a
    grid of the same size. ConfigError: no output follows the picture and carries evidence.
    """
    search = Search(network, (pixels.shape[1], pixels.shape[2], pixels.shape[3]), seed)
    shown = pixels if shown is None else shown
    try:
        layers: tuple[Layer, ...] = (search.find().layer,)
    except NoEvidence:
        if (target := _find_without_gradients(network, search, pixels, shown)) is None:
            raise
        return target
    share = share_through(network, layers, shown)
    while share < ENOUGH and len(layers) < MOST_MEMBERS:
        further = search.find_beside(layers)
        if further is None or further.grid != layers[0].grid:
            break
        grown = share_through(network, (*layers, further), shown)
        if grown <= share:
            break
        layers, share = (*layers, further), grown
    for layer in layers:
        check_edges(network, layer, pixels[:1])
    if len(layers) == 1:
        return TargetLayers((replace(layers[0], share=round(share, 4)),))
    measured = tuple(measure_share(network, layer, shown) for layer in layers)
    return TargetLayers(measured, tuple(layer.name for layer in layers), round(share, 4))


def measure_share(network: ScoringNetwork, layer: Layer, pixels: Tensor) -> Layer:
    """Return a layer with the share of the scores' variance among (N, C, H, W) pictures that passes it."""
    return replace(layer, share=round(share_through(network, (layer,), pixels), 4))


def _find_without_gradients(
    network: ScoringNetwork, search: Search, pixels: Tensor, shown: Tensor
) -> TargetLayers | None:
    """Return the last output that the scores pass, found by exchanging it; None: there is none."""
    for layer in search.placed():
        measured = measure_share(network, layer, shown)
        if measured.share >= ENOUGH:
            check_edges(network, layer, pixels[:1])
            return TargetLayers((measured,), gradients=False)
    return None
