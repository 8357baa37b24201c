"""Running a pipeline before anybody waits for it."""

from __future__ import annotations

import time
from io import BytesIO

from PIL import Image

from camserve.attribution.methods import METHODS
from camserve.serving.pace import Pace
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest

MOST_SECONDS = 10.0  # for one map


def warm_up(pipeline: Pipeline, most: int) -> float:
    """Answer batches of 1, 2, 4, ... and ``most`` rows; return the seconds of the last.

    Libraries choose and compile most of their kernels, and the allocator grows, in these; what a size between them
    adds is a part of its own first batch. Methods that find out how tokens lie do so at their first map.
    """
    picture = _picture(pipeline)
    for size in _sizes(most):
        seconds = _time(pipeline, [RawRequest(picture)] * size)
    for name in pipeline.settings.methods:
        if METHODS[name].probes:
            _time(pipeline, [RawRequest(picture, {"method": name})])
    return seconds


def time_slow_methods(pipeline: Pipeline) -> float:
    """Return the seconds of one map by the slowest of the archive's methods; 0: none takes many passes.

    Each is given up after ``MOST_SECONDS``.
    """
    slow = [name for name in pipeline.settings.methods if METHODS[name].slow]
    picture = _picture(pipeline)
    pipeline.pace = Pace(MOST_SECONDS)
    return max((_time(pipeline, [RawRequest(picture, {"method": name})]) for name in slow), default=0.0)


def _time(pipeline: Pipeline, rows: list[RawRequest]) -> float:
    start = time.monotonic()
    pipeline.answer(rows)
    return time.monotonic() - start


def _picture(pipeline: Pipeline) -> bytes:
    height, width = pipeline.settings.input.size
    buffer = BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def _sizes(most: int) -> list[int]:
    return [*(1 << step for step in range((most - 1).bit_length())), most]
