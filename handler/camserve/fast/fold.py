"""Batch normalisation folded into the convolution before it, which saves a pass over memory and a rounding.

Which convolution feeds which normalisation is seen by running the network, and the folded network is verified against
the original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from camserve.network.hooks import calls_of
from camserve.network.output import ScoringNetwork


def fold(network: ScoringNetwork, keep: Collection[str], pixels: Tensor) -> int:
    """Fold what can be folded in a frozen float32 network in eval mode, in place; return how many pairs were.

    ``keep`` names modules whose output must stay the same; ``pixels`` (N, C, H, W) are pictures for the network. Where
    the scores would change by more than rounding, nothing is folded.
    """
    modules = dict(network.named_modules())
    pairs = [(modules[conv], norm, modules[norm]) for conv, norm in _pairs(network, pixels) if conv not in keep]
    before = [(conv.weight, conv.bias) for conv, _, _ in pairs]
    with torch.no_grad():
        expected = network(pixels)
        for conv, name, norm in pairs:
            _merge(conv, norm)
            network.put(name, nn.Identity().eval())
    if network.gives(expected, pixels):
        return len(pairs)
    for (conv, name, norm), (weight, bias) in zip(pairs, before):
        conv.weight, conv.bias = weight, bias
        network.put(name, norm)
    return 0


def _pairs(network: ScoringNetwork, pixels: Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions with the normalisations that read their very output, where both run once."""
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    modules = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    with torch.no_grad(), calls_of(modules) as calls:
        network(pixels)
    runs = Counter(call.name for call in calls)
    pairs = []
    for number, norm in enumerate(calls):
        module = modules[norm.name]
        if not isinstance(module, nn.BatchNorm2d) or not module.track_running_stats:
            continue
        made = [call for call in calls[:number] if call.output is norm.inputs[0]]
        if made and _has_plain_weight(modules[made[-1].name]):
            pairs.append((made[-1].name, norm.name))
    return [(conv, norm) for conv, norm in pairs if runs[conv] == runs[norm] == 1]


def _has_plain_weight(module: nn.Module) -> bool:
    """Whether a module is a convolution whose weight is no result of others, as weight and spectral norm make it."""
    return isinstance(module, nn.Conv2d) and "weight" in dict(module.named_parameters(recurse=False))


def _merge(conv: nn.Module, norm: nn.Module) -> None:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    offset = torch.zeros_like(norm.running_var) if norm.bias is None else norm.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, scale, offset
    )
    conv.weight.requires_grad_(False)
    conv.bias.requires_grad_(False)
