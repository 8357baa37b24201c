"""A picture changed so little that nobody sees it, until the network takes it for another class (PGD)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camserve.errors import ConfigError
from camserve.evaluate.asking import Asker
from camserve.evaluate.changed import encode_png
from camserve.evaluate.plan import PhotoUnanswered
from camserve.input_spec import COLORS, InputSpec

REACH, STEP, STEPS = 8, 1, 20  # of 255: how far a pixel may go, and goes at once; how often

NOT_ATTACKED = "--measures attack needs an input that is normalised by fixed numbers, without a transform: leave it out"


def check_attackable(spec: InputSpec) -> None:
    """Refuse an input that pixels cannot be traced back from. ConfigError."""
    if spec.transform is not None or spec.normalise != "fixed":
        raise ConfigError(NOT_ATTACKED)


def attack(asker: Asker, content: bytes, target: int) -> bytes:
    """Return a PNG of what the network is shown of a picture, attacked so that it is taken for the class ``target``.

    Projected gradient descent in the maximum norm (Madry et al. 2018, arXiv:1706.06083). PhotoUnanswered: no PNG
    reaches the network as these pixels.
    """
    row = asker.read(content)
    return picture_of(asker, _descend(asker, row, target))


def picture_of(asker: Asker, row: np.ndarray) -> bytes:
    """Return a PNG of which the network is shown just ``row`` (H, W, C). PhotoUnanswered: there is none."""
    spec = asker.pipeline.settings.input
    height, width = row.shape[:2]
    tall, wide = _canvas(spec)
    top, left = max(0, round((tall - height) / 2)), max(0, round((wide - width) / 2))
    canvas = np.zeros((max(tall, height), max(wide, width), row.shape[2]), np.uint8)
    canvas[top : top + height, left : left + width] = row
    content = encode_png(canvas[..., 0] if COLORS.get(spec.color) == 1 else canvas)
    if not np.array_equal(asker.read(content), row):
        raise PhotoUnanswered("its attacked pixels would be resized")
    return content


def _canvas(spec: InputSpec) -> tuple[int, int]:
    """Return height and width of a picture that is not resized before it is cropped."""
    return spec.size if spec.resize is None else spec.resized


def _descend(asker: Asker, row: np.ndarray, target: int) -> np.ndarray:
    dark, light = asker.normalise([np.full_like(row, level) for level in (0, 255)])
    start = torch.from_numpy(row.astype(np.float32)).permute(2, 0, 1).to(asker.device)
    if asker.pipeline.settings.input.color == "bgr":
        start = start.flip(0)
    wanted = torch.tensor([target], device=asker.device)
    low, high = (start - REACH).clamp(min=0), (start + REACH).clamp(max=255)
    values = start
    for _ in range(STEPS):
        slope = _slope(asker, dark, light, values, wanted)
        values = torch.maximum(torch.minimum(values - STEP * slope.sign(), high), low)
    found = values.flip(0) if asker.pipeline.settings.input.color == "bgr" else values
    return found.permute(1, 2, 0).round().cpu().numpy().astype(np.uint8)


def _slope(asker: Asker, dark: Tensor, light: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Return the gradient of the target's cross-entropy with respect to pixel values (C, H, W), 0..255."""
    with torch.enable_grad():
        watched = values.detach().requires_grad_()
        pixels = dark + (light - dark) * watched / 255
        loss = functional.cross_entropy(asker.run(pixels[None]), wanted)
        (slope,) = torch.autograd.grad(loss, watched)
    return slope
