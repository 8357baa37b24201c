"""Attention as operators run it: recorded in a backward pass, or replaced by the identity in a forward pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from camserve.attribution.operators import OperatorMode

FUSED = "aten::_scaled_dot_product"
SOFTMAX = ("aten::_softmax", "aten::_safe_softmax")


class AttentionGradients(OperatorMode):
    """Record attention (..., L, L) and its gradient wherever a backward pass meets them."""

    def __init__(self) -> None:
        """Start with nothing recorded."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator as it is, and keep what it tells of attention."""
        name, kwargs = func._schema.name, kwargs or {}
        if name.startswith(FUSED) and name.endswith("_backward"):
            self.found.append(_fused(_by_name(func, args, kwargs)))
        elif name == "aten::_softmax_backward_data":
            self.found.append((args[1].detach(), args[0]))
        return func(*args, **kwargs)


class IdentityAttention(OperatorMode):
    """Let every token attend to itself alone, so that no attention moves anything from token to token."""

    def __init__(self) -> None:
        """Start with nothing recorded."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.diagonals: list[Tensor] = []  # of each attention before its softmax, (..., L): of each token with itself

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator; one that attends gives each token its own value."""
        name, kwargs = func._schema.name, kwargs or {}
        output = func(*args, **kwargs)
        if name in SOFTMAX and is_square(args[0]):
            self.diagonals.append(args[0].diagonal(dim1=-2, dim2=-1).float())
            return torch.eye(output.shape[-1], dtype=output.dtype, device=output.device).expand_as(output).clone()
        if name.startswith(FUSED) and not name.endswith("_backward"):
            given = _by_name(func, args, kwargs)
            query, key, value = given["query"], given["key"], given["value"]
            if query.shape == key.shape and value.shape == output[0].shape:
                self.diagonals.append((query * key).float().sum(dim=-1))
                return (value.clone(), *output[1:])
        return output


def is_square(attention: Tensor) -> bool:
    """Return whether a tensor (..., L, L) may be the attention of several tokens to one another."""
    return attention.ndim > 2 and attention.shape[-1] == attention.shape[-2] > 1


def _by_name(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip((argument.name for argument in func._schema.arguments), args)), **kwargs}


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
