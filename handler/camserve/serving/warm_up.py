"""Running a pipeline before anybody waits for it."""

from __future__ import annotations

import time
from io import BytesIO

from PIL import Image

from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest

EVERY_SIZE = 8  # rows up to which every batch size is run; above, only doublings


def warm_up(pipeline: Pipeline, most: int) -> float:
    """Answer one batch of every size up to ``most`` rows, see ``EVERY_SIZE``; return the seconds of the last.

    Libraries choose and compile their kernels, and the allocator grows, at the first batch of each size.
    """
    height, width = pipeline.settings.input.size
    buffer = BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG")
    for size in _sizes(most):
        start = time.monotonic()
        pipeline.answer([RawRequest(buffer.getvalue())] * size)
    return time.monotonic() - start


def _sizes(most: int) -> list[int]:
    doublings = [EVERY_SIZE << step for step in range(1, 32) if EVERY_SIZE << step < most]
    return [*range(1, min(most, EVERY_SIZE) + 1), *doublings, *([most] if most > EVERY_SIZE else [])]
