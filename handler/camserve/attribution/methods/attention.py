"""Gradient-weighted attention, for any network in whose tail attention over all tokens or windows of them runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camserve.attribution.attention_record import AttentionGradients, is_square
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.attribution.windows import Windows, all_tokens, find_windows
from camserve.errors import ConfigError

Recorded = Sequence[tuple[Tensor, Tensor]]


def attention(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Trace how relevant each token is to the score through the attention after the layer.

    Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6: in each block the relevance R becomes R + mean over heads
    of (gradient x attention)+ times R. It is traced from the tokens that the scores read, which are those whose last
    attention has a gradient. In windows, each token of a window passes relevance on to the tokens of that window; a
    token that was merged from several shares its relevance among them equally. ConfigError: nothing after the layer
    attends to its tokens, or its windows cannot be placed on the grid.
    """
    maps: dict[int, Tensor] = {}
    for turn in objectives.turns():
        weights = output.scores.new_zeros(output.scores.shape)
        index = torch.tensor(turn, device=objectives.device)
        rows = objectives.row_index[index]
        weights[rows] = objectives.weights[index]
        with AttentionGradients() as backward:
            output.pull_back(weights)
        maps.update(zip(turn, _trace(backward.found, output)[rows]))
    return torch.stack([maps[number] for number in range(len(maps))])


def _trace(recorded: Recorded, output: LayerOutput) -> Tensor:
    """Return the relevance (N, h, w) from attention and its gradient, the last block first."""
    count, _, height, width = output.activations.shape
    start = relevance = torch.zeros(0)
    for weighted, windows in _placed(recorded, output):
        if not len(relevance):
            read = windows.scatter(windows.by_window(weighted.ne(0)).any(dim=3).float()).ne(0).float()
            start = relevance = read / read.sum(dim=1, keepdim=True).clamp(min=1)
        step = windows.by_window(weighted.clamp(min=0))
        passed = windows.gather(relevance)[:, :, None] @ step
        relevance = relevance + windows.scatter(passed[:, :, 0])
    return (relevance - start)[:, output.layer.prefix :].reshape(count, height, width)


def _placed(recorded: Recorded, output: LayerOutput) -> list[tuple[Tensor, Windows]]:
    """Return each gradient times attention with the place of its tokens, the last block first. ConfigError."""
    layer, (height, width) = output.layer, output.activations.shape[2:]
    tokens = layer.prefix + height * width
    square = [pair for pair in recorded if is_square(pair[0])]
    whole = [pair for pair in square if pair[0].shape[-1] == tokens]
    if not square or (layer.prefix and not whole):
        raise ConfigError(
            f"method 'attention' needs attention over all {tokens} tokens after '{layer.name}', or over windows of "
            "them: an earlier layer of the recipe may have it"
        )
    if layer.prefix or len(whole) == len(square):
        return [(one * other, all_tokens(one, len(output.scores))) for one, other in whole]
    windows = find_windows(output)[::-1]
    if [pair[0].shape[-1] for pair in square] != [one.tokens for one in windows]:
        raise ConfigError(f"method 'attention' cannot place windows on the grid of '{layer.name}': some are not read")
    return [(one * other, place) for (one, other), place in zip(square, windows)]
