"""Which layer has attention behind it, for a recipe whose layer has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camserve.attribution.attention_record import AttentionGradients, is_square
from camserve.attribution.capture import Capture
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.probe.search import Search
from camserve.build.probe.share import ENOUGH, choose_pictures, share_through
from camserve.errors import ConfigError
from camserve.fast.split import Split
from camserve.network.output import ScoringNetwork, device_of_network
from camserve.values import InputShape, Layer

MOST_TRIED = 40  # layers, each of which costs a pass


def name_attended(network: nn.Module, shape: InputShape, photos: Tensor | None = None) -> str:
    """Return the words that name such a layer; "": none is found."""
    found = find_attended(network, shape, photos)
    return "" if found is None else f", 'layer: {found}' as the last of them"


def find_attended(network: nn.Module, shape: InputShape, photos: Tensor | None = None, seed: int = 0) -> str | None:
    """Return the last layer that all evidence passes and behind which attention can be traced; None: none is found.

    What passes a layer is measured on corners of the ``photos`` (N, C, H, W), or on noise.
    """
    network = ScoringNetwork(network.whole if isinstance(network, Split) else network)  # in halves no layer runs
    placed = Search(network, shape, seed).placed()
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed)).to(device_of_network(network))
    if not placed or not _attends(network, placed[-1], noise):
        return None
    shown = noise if photos is None else choose_pictures(network, noise, photos.to(noise))
    tried = (layer for layer in placed[:MOST_TRIED] if _is_traced(network, layer, noise))
    return next((layer.name for layer in tried if share_through(network, (layer,), shown) >= ENOUGH), None)


def _attends(network: ScoringNetwork, layer: Layer, pixels: Tensor) -> bool:
    """Return whether any attention runs behind a layer."""
    with Capture(network, (layer,)) as capture, AttentionGradients() as backward:
        (output,) = capture.forward(pixels[:1])
        output.pull_back(torch.ones_like(output.scores))
    return any(is_square(attention) for attention, _ in backward.found)


def _is_traced(network: ScoringNetwork, layer: Layer, pixels: Tensor) -> bool:
    with Capture(network, (layer,)) as capture:
        (output,) = capture.forward(pixels[:1])
        return _can_trace(output)


def _can_trace(output: LayerOutput) -> bool:
    try:
        METHODS["attention"].run(output, Objectives.of_top_classes(output.scores))
    except ConfigError:
        return False
    return True
