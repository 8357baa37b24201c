"""One map from several layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

GAMMA = 2.0  # how strongly fine maps are lifted


def fuse(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Fuse the maps of several layers, (T, h, w) each, to (T, *size) in 0..1 by their maximum (LayerCAM).

    Jiang et al. 2021, equation 9: each map after its ReLU is divided by its maximum, and those finer
    than the coarsest, whose evidence is spread thin, are lifted by tanh(2 x). A blank map adds nothing.
    """
    coarsest = min(signed.shape[1] * signed.shape[2] for signed in maps)
    return torch.stack([_enlarge(_scale(signed, coarsest), size) for signed in maps]).amax(dim=0)


def _scale(signed: Tensor, coarsest: int) -> Tensor:
    positive = signed.clamp(min=0)
    highest = positive.amax(dim=(1, 2), keepdim=True)
    scaled = torch.where(highest > 0, positive / highest, 0.0)
    return torch.tanh(GAMMA * scaled) if signed.shape[1] * signed.shape[2] > coarsest else scaled


def _enlarge(scaled: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(scaled[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
