"""Whether the positions of a module's output lie where the picture's do.

A shape cannot tell a grid of patches from as many latents, or from tokens in another order, nor a picture from its
mirror image. A picture whose left half is changed can: what changes most must lie at the left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from camserve.attribution.grid import on_grid
from camserve.build.probe.axes import Key
from camserve.build.probe.watch import watch_values
from camserve.values import Layer

# Of a side: how far what the one half changes must lie from what the other half changes. It is
# 0.5 where nothing is mixed, 0.13 in a mixer with random weights, and below 0.001 in latents.
APART = 0.005


def in_place(
    network: nn.Module,
    pixels: Tensor,
    layers: Mapping[Key, Layer],
    guessed: Collection[Key],
    generator: torch.Generator,
) -> set[Key]:
    """Return those of ``layers``, by module name and call, whose grid follows the picture; one forward pass.

    ``pixels``, (1, C, H, W), is shown as it is and with other noise in its upper, lower, left and right half. Layers
    that are ``guessed`` must follow it; of the others it is enough that they are not mirrored.
    """
    found = set()

    def look(name: str, call: int, tensor: Tensor) -> None:
        layer = layers.get((name, call))
        if layer is not None and len(tensor) == 5:
            least = APART if (name, call) in guessed else -APART
            if all(apart > least for apart in _apart(on_grid(tensor, layer))):
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


def _apart(activations: Tensor) -> list[float]:
    """Return how far the lower half's change lies below the upper's, and the right's right of the left's, of a side.

    ``activations`` are (5, K, h, w), the first row that of the unchanged picture. A side of one position has no place.
    """
    change = (activations[1:] - activations[0]).abs().sum(dim=1)
    upper, lower, left, right = (_centre(half, axis) for half, axis in zip(change, (0, 0, 1, 1)))
    rows, columns = change.shape[1:]
    return [apart for side, apart in ((rows, lower - upper), (columns, right - left)) if side > 1]


def _centre(change: Tensor, axis: int) -> float:
    """Return where along an axis the change (h, w) is, from 0 to 1."""
    profile = change.sum(dim=1 - axis)
    places = (torch.arange(len(profile), device=profile.device) + 0.5) / len(profile)
    return float((profile * places).sum() / profile.sum())
