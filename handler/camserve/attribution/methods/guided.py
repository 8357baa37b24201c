"""Guided backpropagation and its relatives: sharp, and blind to the network's own weights.

Adebayo et al. 2018 (arXiv:1810.03292) found that these maps hardly change when the weights are
randomised. They are offered because people ask for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import gradcam
from camserve.attribution.objectives import Objectives
from camserve.attribution.operators import OperatorMode
from camserve.attribution.passes import pixel_gradients
from camserve.errors import ConfigError

BACKWARD = (torch.ops.aten.threshold_backward.default, torch.ops.aten.hardtanh_backward.default)


def guided_backprop(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Let only positive gradients pass a ReLU that was active (Springenberg et al. 2015, arXiv:1412.6806).

    ConfigError: the network has no ReLU.
    """
    return _rectified(output, objectives, masked=True).sum(dim=1)


def deconvnet(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Let only positive gradients pass a ReLU, active or not (Zeiler and Fergus 2014, arXiv:1311.2901).

    ConfigError: the network has no ReLU.
    """
    return _rectified(output, objectives, masked=False).sum(dim=1)


def guided_gradcam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Multiply guided backpropagation by the enlarged Grad-CAM map (Selvaraju et al. 2017, section 3.2)."""
    coarse = gradcam(output, objectives).clamp(min=0)[:, None]
    fine = functional.interpolate(coarse, size=tuple(output.pixels.shape[2:]), mode="bilinear", align_corners=False)
    return fine[:, 0] * guided_backprop(output, objectives)


def _rectified(output: LayerOutput, objectives: Objectives, masked: bool) -> Tensor:
    with RectifiedBackward(masked) as backward:
        gradients = pixel_gradients(output, objectives, output.pixels[objectives.row_index])
    if not backward.met:
        raise ConfigError("guided_backprop and deconvnet change how gradients pass a ReLU, and this network has none")
    return gradients


class RectifiedBackward(OperatorMode):
    """Replace the backward pass of ReLU and ReLU6, wherever in the network they are called."""

    def __init__(self, masked: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._masked = masked
        self.met = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in BACKWARD:
            return func(*args, **(kwargs or {}))
        self.met = True
        positive = args[0].clamp(min=0)
        return func(positive, *args[1:], **(kwargs or {})) if self._masked else positive
