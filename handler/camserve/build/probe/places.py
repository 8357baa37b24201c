"""Whether the positions of a module's output lie where the picture's do.

A shape cannot tell a grid of patches from as many latents, or from tokens in another order. A
picture whose left half is changed can: what changes most must lie at the left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from camserve.attribution.grid import on_grid
from camserve.build.probe.axes import Key
from camserve.build.probe.watch import watch_values
from camserve.values import Layer

# Of a side: how far what the one half changes must lie from what the other half changes. It is
# 0.5 where nothing is mixed, 0.13 in a mixer with random weights, and below 0.001 in latents.
APART = 0.005


def in_place(network: nn.Module, pixels: Tensor, layers: Mapping[Key, Layer], generator: torch.Generator) -> set[Key]:
    """Return those of ``layers``, by module name and call, whose grid follows the picture; one forward pass.

    ``pixels``, (1, C, H, W), is shown as it is and with other noise in its upper, lower, left and right half.
    """
    found = set()

    def look(name: str, call: int, tensor: Tensor) -> None:
        layer = layers.get((name, call))
        if layer is not None and len(tensor) == 5 and _follows(on_grid(tensor, layer)):
            found.add((name, call))

    watch_values(network, _halves(pixels, generator), look)
    return found


def _halves(pixels: Tensor, generator: torch.Generator) -> Tensor:
    shown = pixels.repeat(5, 1, 1, 1)
    noise = torch.randn(pixels.shape, generator=generator).to(pixels)
    rows, columns = (side // 2 for side in pixels.shape[2:])
    everywhere = slice(None)
    halves = [(slice(rows), everywhere), (slice(rows, None), everywhere)]
    halves += [(everywhere, slice(columns)), (everywhere, slice(columns, None))]
    for number, (vertical, horizontal) in enumerate(halves, start=1):
        shown[number, :, vertical, horizontal] = noise[0, :, vertical, horizontal]
    return shown


def _follows(activations: Tensor) -> bool:
    """Whether halves change what lies on their own side; (5, K, h, w), the first row unchanged."""
    change = (activations[1:] - activations[0]).abs().sum(dim=1)
    upper, lower, left, right = (_centre(half, axis) for half, axis in zip(change, (0, 0, 1, 1)))
    rows, columns = change.shape[1:]
    return (rows == 1 or lower - upper > APART) and (columns == 1 or right - left > APART)


def _centre(change: Tensor, axis: int) -> float:
    """Return where along an axis the change (h, w) is, from 0 to 1."""
    profile = change.sum(dim=1 - axis)
    places = (torch.arange(len(profile), device=profile.device) + 0.5) / len(profile)
    return float((profile * places).sum() / profile.sum())
