"""How far a map can be trusted, and what it is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import channel_weights
from camserve.attribution.objectives import Objectives


def signs(output: LayerOutput, objectives: Objectives) -> list[dict[str, float]]:
    """Return for each target how the mass of weight x activation divides among the four pairs of signs.

    ``pn`` is positive weight times negative activation; the four shares sum to 1, or are all 0 where
    there is no mass. Weights are Grad-CAM's. ``nn`` is part of the positive map although the target
    is weighed down by the channel: only its activation's sign turns it into evidence. NaN: the mass is not finite.
    """
    weights = channel_weights(output, objectives)
    activations = output.activations_of(objectives)
    halves = {
        "p": (weights.clamp(min=0), activations.clamp(min=0).sum(dim=(2, 3))),
        "n": (-weights.clamp(max=0), -activations.clamp(max=0).sum(dim=(2, 3))),
    }
    pairs = {one + other: halves[one][0] * halves[other][1] for one in halves for other in halves}
    mass = torch.stack([products.sum(dim=1) for products in pairs.values()], dim=1)
    total = mass.sum(dim=1, keepdim=True)
    shares = torch.where(total == 0, 0.0, mass / total)
    return [dict(zip(pairs, row)) for row in shares.tolist()]


def channels(output: LayerOutput, objectives: Objectives, top: int) -> list[list[dict[str, float]]]:
    """Return for each target the ``top`` feature maps that weigh most in its Grad-CAM map, strongest first.

    ``contribution`` is what the channel adds to the sum of the map: weight times ``activation`` (a
    mean) times the number of positions. ``share`` is its size over that of all channels.
    """
    weights = channel_weights(output, objectives)
    means = output.activations_of(objectives).mean(dim=(2, 3))
    contributions = weights * means * output.activations[0, 0].numel()
    total = contributions.abs().sum(dim=1, keepdim=True)
    shares = torch.where(total == 0, 0.0, contributions.abs() / total)
    found = shares.topk(min(top, shares.shape[1]), dim=1).indices
    table = torch.stack([values.gather(1, found) for values in (weights, means, contributions, shares)], dim=2)
    names = ("weight", "activation", "contribution", "share")
    return [
        [{"channel": channel, **dict(zip(names, values))} for channel, values in zip(*row)]
        for row in zip(found.tolist(), table.tolist())
    ]


def share_of_score(output: LayerOutput, objectives: Objectives, maps: Tensor) -> list[float | None]:
    """Return for each target its signed map's sum over the target's value less what no activation would give.

    1 where the map accounts for the whole score, as Grad-CAM and HiResCAM do before pooling and one
    linear layer (Draelos and Carin 2020). None where the tail is anything else, so that nobody can say, or where
    there is nothing to divide by.
    """
    head = output.head
    if head is None:
        return [None] * len(objectives.rows)
    rises = objectives.values(output.scores - head.bias)
    sums = maps.sum(dim=(1, 2))
    return [total / rise if rise != 0 else None for total, rise in torch.stack([sums, rises], dim=1).tolist()]
