"""Ablation-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import weigh
from camserve.attribution.objectives import Objectives


def ablationcam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each channel by how much the target falls when the channel is set to zero (Desai and Ramaswamy 2020).

    The paper divides the fall by the score itself: one number for the whole map, which would turn
    the map over wherever the score is negative. It is left out. Where pooling and one linear layer follow, the fall is
    the channel's own term of the score, and nothing is run.
    """
    return weigh(ablation_weights(output, objectives), output, objectives)


def ablation_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the weight of each channel, (T, K)."""
    if output.head is not None:
        means = output.activations_of(objectives).mean(dim=(2, 3))
        return output.head.channel_weights(objectives) * means
    ablated = output.activations.clone()
    # Run again as well: the network itself may have rounded otherwise.
    whole = objectives.values(output.rescore(output.activations))
    falls = []
    for channel in range(ablated.shape[1]):
        ablated[:, channel] = 0
        falls.append(whole - objectives.values(output.rescore(ablated)))
        ablated[:, channel] = output.activations[:, channel]
    return torch.stack(falls, dim=1)
