"""Maps of some of a layer's channels, and what share of the evidence these carry."""

from __future__ import annotations

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
    output: LayerOutput, method: Method, objectives: Objectives, choice: ChannelChoice
) -> tuple[Tensor, list[dict[str, object]]]:
    """Return the signed maps (T, h, w) of the chosen channels, and for each which these are and their share.

    The share is of the sum over all channels of |weight times mean activation|. ConfigError: the method has no weights
    of channels.
    """
    if method.weights is None:
        raise ConfigError("this method gives channels no weights")
    weights = method.weights(output, objectives)
    sizes = (weights * output.activations_of(objectives).mean(dim=(2, 3))).abs()
    chosen = _choose(weights, sizes, choice)
    if choice.kind == "activation":
        maps = output.activations_of(objectives)[:, choice.numbers[0]]
    else:
        maps = weigh(torch.where(chosen, weights, 0.0), output, objectives)
    return maps, [{"asked": choice.asked, **_describe(*row)} for row in zip(chosen, sizes)]


def _choose(weights: Tensor, sizes: Tensor, choice: ChannelChoice) -> Tensor:
    """Return which channels are chosen, (T, K) bool."""
    if choice.kind == "weights":
        return (weights >= choice.window[0]) & (weights <= choice.window[1])
    if choice.kind == "top":
        strongest = sizes.topk(min(choice.numbers[0], sizes.shape[1]), dim=1).indices
        return torch.zeros_like(sizes, dtype=torch.bool).scatter_(1, strongest, True)
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[:, list(choice.numbers)] = True
    return chosen


def _describe(chosen: Tensor, sizes: Tensor) -> dict[str, object]:
    """Return how many channels are chosen, the strongest of them, and their share of all evidence."""
    numbers = chosen.nonzero().flatten()
    total, part = float(sizes.sum()), float(sizes[numbers].sum())
    order = sizes[numbers].argsort(descending=True, stable=True)[:MOST_NAMED]
    return {
        "count": len(numbers),
        "channels": numbers[order].tolist(),
        "share": round(part / total, 4) if total > 0 else 0.0,
    }
