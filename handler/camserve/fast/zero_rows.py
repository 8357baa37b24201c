"""The backward pass of a transformer whose head reads one token, with fewer and shorter matrix products.

Only the class token has a gradient behind the last block, so nearly all rows of most gradients in it are exactly zero,
and automatic differentiation multiplies them like any others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from camserve.attribution.backward import AutogradBackward, Run
from camserve.attribution.capture import Capture, Tail
from camserve.attribution.find_head import gradients_agree, random_pictures
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.attribution.operators import OperatorMode
from camserve.network.precision import full_precision
from camserve.values import InputShape, Layer

aten: Any = torch.ops.aten
FEW = 4  # rows for each row that is not zero, from where on it pays to pick these out


class TokenBackward(AutogradBackward):
    """Plain automatic differentiation that leaves out what is multiplied by zero."""

    def gradients(self, run: Run, objectives: Objectives) -> Tensor:
        """Return d objective / d activation, (T, K, h, w) float32; errors as for ``AutogradBackward``."""
        with _WithoutZeroRows():  # type: ignore[no-untyped-call]
            return super().gradients(run, objectives)


class _WithoutZeroRows(OperatorMode):  # type: ignore[no-untyped-call]
    """Multiply the rows of the first factor that are not all zero, and one weight for all tokens in one product."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.mm.default:
            return _multiply(*args)
        # Attention's projections read tokens along the first axis: autograd repeats their weight for each token.
        if func is aten.bmm.default and args[1].stride(0) == 0:
            return (args[0].flatten(0, 1) @ args[1][0]).view(*args[0].shape[:2], -1)
        return func(*args, **(kwargs or {}))


def _multiply(rows: Tensor, weight: Tensor) -> Tensor:
    found = rows.any(dim=1).nonzero().flatten()
    if FEW * len(found) >= len(rows):
        return rows @ weight
    product = rows.new_zeros(len(rows), weight.shape[1])
    product[found] = rows[found] @ weight
    return product


@full_precision()
def find_token_backward(network: nn.Module, layer: Layer, shape: InputShape) -> TokenBackward | None:
    """Return the shortcut for a layer of tokens with a class token on a CPU: finding rows would make a GPU wait.

    None: there is no such token, or the gradients of random weightings of the scores differ from plain autograd's.
    """
    pixels = random_pictures(network, shape)
    if not layer.prefix or pixels.device.type != "cpu":
        return None
    shortcut = TokenBackward.at(layer, pixels.device)
    assert isinstance(shortcut, TokenBackward)
    outputs: list[LayerOutput] = []
    for tail in (Tail(), Tail(backward=shortcut)):
        with Capture(network, (layer,), {layer.name: tail}) as capture:
            outputs += capture.forward(pixels)
    return shortcut if gradients_agree(*outputs) else None
