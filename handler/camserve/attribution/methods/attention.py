"""Gradient-weighted attention, for any network in whose tail attention over all tokens runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.attribution.operators import OperatorMode
from camserve.errors import ConfigError


def attention(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Trace how relevant each token is to the score through the attention after the layer.

    Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6: in each block the relevance R becomes R + mean over heads
    of (gradient x attention)+ times R. It is traced from the tokens that the scores read, which are those whose last
    attention has a gradient. ConfigError: nothing after the layer attends to all of its tokens.
    """
    maps: dict[int, Tensor] = {}
    for turn in objectives.turns():
        weights = output.scores.new_zeros(output.scores.shape)
        index = torch.tensor(turn, device=objectives.device)
        rows = objectives.row_index[index]
        weights[rows] = objectives.weights[index]
        with _AttentionGradients() as backward:
            output.pull_back(weights)
        maps.update(zip(turn, _trace(backward.found, output)[rows]))
    return torch.stack([maps[number] for number in range(len(maps))])


def _trace(found: list[tuple[Tensor, Tensor]], output: LayerOutput) -> Tensor:
    """Return the relevance (N, h, w) from attention and its gradient, the last block first."""
    count, _, height, width = output.activations.shape
    prefix = output.layer.prefix
    tokens = prefix + height * width
    start = relevance = torch.zeros(0)
    for attention, gradient in found:
        if attention.shape[-2:] != (tokens, tokens):
            continue
        weighted = (attention * gradient).float().reshape(count, -1, tokens, tokens)
        if not len(relevance):
            read = weighted.ne(0).any(dim=3).any(dim=1).float()
            start = relevance = read / read.sum(dim=1, keepdim=True).clamp(min=1)
        step = weighted.clamp(min=0).mean(dim=1)
        relevance = relevance + torch.bmm(relevance[:, None], step)[:, 0]
    if not len(relevance):
        raise ConfigError(f"method 'attention' needs attention over all {tokens} tokens after '{output.layer.name}'")
    return (relevance - start)[:, prefix:].reshape(count, height, width)


class _AttentionGradients(OperatorMode):
    """Record attention (..., L, L) and its gradient wherever a backward pass meets them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        if name.startswith("aten::_scaled_dot_product") and name.endswith("_backward"):
            given = dict(zip((argument.name for argument in func._schema.arguments), args))
            self.found.append(_fused({**given, **kwargs}))
        elif name == "aten::_softmax_backward_data":
            self.found.append((args[1].detach(), args[0]))
        return func(*args, **kwargs)


def _fused(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return attention and its gradient, which a fused operator never writes down."""
    gradient, query = given.get("grad_out", given.get("grad_out_")), given["query"]
    key, value = given["key"], given["value"]
    scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
    scores = query @ key.transpose(-1, -2) * scale
    mask = given.get("attn_mask", given.get("attn_bias"))
    if given.get("is_causal"):
        scores = scores + torch.full_like(scores, -math.inf).triu(1)
    return (scores if mask is None else scores + mask).softmax(dim=-1), gradient @ value.transpose(-1, -2)
