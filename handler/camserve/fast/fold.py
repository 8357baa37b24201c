"""Batch normalisation folded into the convolution before it: one pass over memory less, and one rounding less.

Which convolution feeds which normalisation is seen by running the network, never by names, and what
comes of folding is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from camserve.network.output import ScoringNetwork

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def fold(network: ScoringNetwork, keep: Collection[str], pixels: Tensor) -> int:
    """Fold what can be folded in a frozen float32 network in eval mode, in place; return how many were.

    ``keep`` names modules whose output must stay what it is; ``pixels`` (N, 3, H, W) are what the network may see.
    Where the scores would change by more than rounding, nothing is folded.
    """
    names = {module: name for name, module in network.named_modules()}
    pairs = [(conv, norm) for conv, norm in _pairs(network, pixels) if names[conv] not in keep]
    before = [(conv.weight, conv.bias) for conv, _ in pairs]
    with torch.no_grad():
        expected = network(pixels)
        for conv, norm in pairs:
            _merge(conv, norm)
            network.put(names[norm], nn.Identity().eval())
    if network.gives(expected, pixels):
        return len(pairs)
    for (conv, norm), (weight, bias) in zip(pairs, before):
        conv.weight, conv.bias = weight, bias
        network.put(names[norm], norm)
    return 0


def _pairs(network: ScoringNetwork, pixels: Tensor) -> list[Pair]:
    """Return convolutions with the normalisations that read their very output, where both run once."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the identity of the output, which is kept so that it stays one
    pairs: list[Pair] = []
    runs: Counter[nn.Module] = Counter()

    def watch(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        runs[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        elif id(given[0]) in made and isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            pairs.append((made[id(given[0])][0], module))

    watched = [each for each in network.modules() if isinstance(each, (nn.Conv2d, nn.BatchNorm2d))]
    handles = [each.register_forward_hook(watch) for each in watched]
    try:
        with torch.no_grad():
            network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return [(conv, norm) for conv, norm in pairs if runs[conv] == runs[norm] == 1]


def _merge(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    offset = torch.zeros_like(norm.running_var) if norm.bias is None else norm.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, scale, offset
    )
    conv.weight.requires_grad_(False)
    conv.bias.requires_grad_(False)
