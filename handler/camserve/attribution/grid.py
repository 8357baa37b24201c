"""Between a module's own layout and the grid (N, K, h, w) that maps are computed on."""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.values import Layer


def on_grid(tensor: Tensor, layer: Layer) -> Tensor:
    """Return a module's output as (N, K, h, w) float32."""
    if layer.layout == "NHWC":
        tensor = tensor.permute(0, 3, 1, 2)
    elif layer.layout == "NLC":
        tokens = tensor[:, layer.prefix :].transpose(1, 2)
        tensor = tokens.reshape(*tokens.shape[:2], *layer.grid)
    return tensor.float()


def off_grid(activations: Tensor, layer: Layer, like: Tensor) -> Tensor:
    """Return (N, K, h, w) as the module's own output ``like``, whose prefix tokens are kept; undoes ``on_grid``."""
    if layer.layout == "NHWC":
        activations = activations.permute(0, 2, 3, 1)
    elif layer.layout == "NLC":
        tokens = activations.flatten(2).transpose(1, 2).to(like.dtype)
        activations = torch.cat([like[:, : layer.prefix], tokens], dim=1)
    return activations.to(like.dtype)
