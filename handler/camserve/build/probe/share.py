"""How much of the scores passes a layer, and whether a network looks at the whole picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.attribution.grid import on_grid
from camserve.build.probe.watch import watch_values
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.values import Layer

SIDES = ("top", "bottom", "left", "right")
ENOUGH = 0.95  # of the scores' variance; below, further members of an ensemble are looked for
CORNER = 2 / 3  # of each side of a picture
MOST_PICTURES = 2  # of which corners are taken
FLAT = 1e-4  # of the scores' variance among all pictures: corners with less have no contrast


def choose_pictures(network: ScoringNetwork, pixels: Tensor, samples: Tensor) -> Tensor:
    """Return the pictures to measure shares on: corners of the ``samples``, or ``pixels`` (N, C, H, W).

    The latter where a head that tells the ``pixels`` apart scores all corners alike, as those of a blank frame.
    """
    corners = corners_of(samples)
    with torch.no_grad():
        pairs = zip(network.score_heads(corners), network.score_heads(pixels))
        has_contrast = all(_variance(near) >= FLAT * _variance(far) for near, far in pairs)
    return corners if has_contrast else pixels


def _variance(scores: Tensor) -> float:
    return float(scores.double().var(dim=0).sum())


def corners_of(pixels: Tensor) -> Tensor:
    """Return the four corners of each of the first pictures (N, C, H, W), enlarged to their size, (4 N, C, H, W).

    The scores of a trained network differ among corners of photos as they do among photos; beside noise they do not.
    """
    height, width = (round(side * CORNER) for side in pixels.shape[2:])
    chosen = pixels[:MOST_PICTURES]
    halves = [(slice(height), slice(-height, None)), (slice(width), slice(-width, None))]
    corners = torch.stack([chosen[..., rows, columns] for rows in halves[0] for columns in halves[1]], dim=1)
    return functional.interpolate(corners.flatten(0, 1), size=pixels.shape[2:], mode="bilinear", align_corners=False)


def share_through(network: ScoringNetwork, layers: Sequence[Layer], pixels: Tensor) -> float:
    """Return the share, 0..1, of the scores' variance among (N, C, H, W) pictures that passes ``layers``.

    Each picture is run with what the layers gave for its neighbour: where everything passes them, it gets the
    neighbour's scores. The share is 1 less the squared distance to these, over that of the pictures' own scores. Of
    several heads the least share counts: no map shall show less than it says. A head that scores all pictures alike
    does not count; 0 where all do.
    """
    with torch.no_grad():
        own = network.score_heads(pixels)
        with _exchanged(network, layers):
            mixed = network.score_heads(pixels)
    shares = [_share(*pair) for pair in zip(own, mixed)]
    return min((share for share in shares if share is not None), default=0.0)


def _share(own: Tensor, mixed: Tensor) -> float | None:
    neighbours = own.roll(1, dims=0)
    variance = float((own - neighbours).square().sum())
    return max(0.0, 1 - float((mixed - neighbours).square().sum()) / variance) if variance > 0 else None


@contextmanager
def _exchanged(network: ScoringNetwork, layers: Sequence[Layer]) -> Iterator[None]:
    """Hand on, while the block runs, each layer's output for one picture as that for the next."""
    with ExitStack() as stack:
        for layer in layers:
            handle = network.get_submodule(layer.name).register_forward_hook(_Exchange(layer.call))
            stack.callback(handle.remove)
        yield


class _Exchange:
    """A forward hook that moves the rows of one call's output by one."""

    def __init__(self, call: int) -> None:
        self._calls_to_go = call

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        self._calls_to_go -= 1
        if self._calls_to_go != -1:
            return None
        return output.roll(1, 0) if isinstance(output, Tensor) else (output[0].roll(1, 0), *output[1:])


def check_edges(network: ScoringNetwork, layer: Layer, pixels: Tensor) -> None:
    """Check that a layer's grid spans the whole picture, on one picture (1, C, H, W).

    ConfigError: a cell's width of pixels at one side, or half of that at two opposite sides, changes nothing in it.
    """
    blind = {share: _blind_sides(network, layer, pixels, share) for share in (0.5, 1.0)}
    opposite = [side for one, other in (SIDES[:2], SIDES[2:]) if {one, other} <= blind[0.5] for side in (one, other)]
    if sides := sorted({*blind[1.0], *opposite}, key=SIDES.index):
        raise ConfigError(
            f"the network does not look at the outermost pixels at the {', '.join(sides)} of its input, so that maps "
            "would be misplaced: if it crops its input, let input.crop do that instead"
        )


def _blind_sides(network: ScoringNetwork, layer: Layer, pixels: Tensor, cells: float) -> set[str]:
    """Return the sides at which so many cells' pixels change nothing in the layer's output."""
    height, width = pixels.shape[2:]
    rows, columns = ceil(cells * height / layer.grid[0]), ceil(cells * width / layer.grid[1])
    whole = slice(None)
    bands = [(slice(rows), whole), (slice(-rows, None), whole), (whole, slice(columns)), (whole, slice(-columns, None))]
    shown = pixels.repeat(len(bands) + 1, 1, 1, 1)
    for number, (vertical, horizontal) in enumerate(bands, start=1):
        shown[number, :, vertical, horizontal] = pixels[0].flip(1, 2)[:, vertical, horizontal] + 1
    blind: set[str] = set()

    def look(name: str, call: int, tensor: Tensor) -> None:
        if (name, call) == (layer.name, layer.call) and len(tensor) == len(shown):
            changes = (on_grid(tensor[1:], layer) - on_grid(tensor[:1], layer)).flatten(1).abs().amax(dim=1)
            blind.update(side for side, change in zip(SIDES, changes.tolist()) if change == 0)

    watch_values(network, shown, look)
    return blind
