"""Maps as another library gives them, for those who must compare."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

EPSILON = 1e-7  # theirs: a map whose values are of this size never reaches 1


def pytorch_grad_cam_view(signed: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn signed maps (T, h, w) into what pytorch-grad-cam 1.5 returns for them, (T, *size) in 0..1.

    Its order: ReLU, min-max on the layer's grid, bilinear enlargement, min-max again.
    """
    low = _min_max(signed.clamp(min=0))
    return _min_max(functional.interpolate(low[:, None], size=size, mode="bilinear", align_corners=False)[:, 0])


def _min_max(maps: Tensor) -> Tensor:
    lifted = maps - maps.amin(dim=(1, 2), keepdim=True)
    return lifted / (EPSILON + lifted.amax(dim=(1, 2), keepdim=True))
