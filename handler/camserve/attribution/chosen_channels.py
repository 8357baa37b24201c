"""Maps of some of a layer's channels, and what share of the evidence these carry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods import Method
from camserve.attribution.methods.gradcam import weigh
from camserve.attribution.objectives import Objectives
from camserve.errors import BadOption, ConfigError
from camserve.values import ChannelChoice

MOST_NAMED = 100  # channels that an answer names; it counts the others


def check_channels(choice: ChannelChoice | None, outputs: Sequence[LayerOutput], names: Sequence[str]) -> None:
    """Refuse channels that the named layer does not have (BadOption)."""
    if choice is None:
        return
    for output in outputs:
        count = output.activations.shape[1]
        if output.layer.name in names and choice.last >= count:
            raise BadOption(
                f"option 'channels': layer '{output.layer.name}' has channels 0 to {count - 1}, not {choice.last}"
            )


def map_channels(
    output: LayerOutput, method: Method, objectives: Objectives, choices: Sequence[ChannelChoice | None]
) -> tuple[Tensor, list[dict[str, object]]]:
    """Return the signed maps (T, h, w) of each objective's chosen channels, and what an answer says of the choices.

    None chooses all channels, and nothing is said of it. The weights are computed once, however many choices there are.
    ConfigError: the method has no weights of channels.
    """
    if method.weights is None:
        raise ConfigError("this method gives channels no weights")
    weights = method.weights(output, objectives)
    sizes = (weights * objectives.spread(output.activations.mean(dim=(2, 3)))).abs()
    chosen = torch.stack([_choose(*row) for row in zip(weights, sizes, choices)])
    maps = weigh(torch.where(chosen, weights, 0.0), output, objectives)
    for number, choice in enumerate(choices):
        if choice is not None and choice.kind == "activation":
            maps[number] = output.activations[objectives.rows[number], choice.numbers[0]]
    return maps, [
        {} if choice is None else {"of_channels": {"asked": choice.asked, **_describe(*row)}}
        for choice, *row in zip(choices, chosen, sizes)
    ]


def _choose(weights: Tensor, sizes: Tensor, choice: ChannelChoice | None) -> Tensor:
    """Return which channels are chosen, (K,) bool."""
    if choice is None:
        return torch.ones_like(sizes, dtype=torch.bool)
    if choice.kind == "weights":
        return (weights >= choice.window[0]) & (weights <= choice.window[1])
    strongest = sizes.topk(min(choice.numbers[0], len(sizes))).indices if choice.kind == "top" else None
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[list(choice.numbers) if strongest is None else strongest] = True
    return chosen


def _describe(chosen: Tensor, sizes: Tensor) -> dict[str, object]:
    """Return how many channels are chosen, the strongest of them, and their share of all evidence.

    The share is None where the evidence of all is not finite: an activation is, whatever the gradients are.
    """
    numbers = chosen.nonzero().flatten()
    total, part = float(sizes.sum()), float(sizes[numbers].sum())
    order = sizes[numbers].argsort(descending=True, stable=True)[:MOST_NAMED]
    share = round(part / total, 4) if total > 0 else 0.0
    return {
        "count": len(numbers),
        "channels": numbers[order].tolist(),
        "share": share if math.isfinite(total) else None,
    }
