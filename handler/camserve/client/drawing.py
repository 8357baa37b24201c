"""A map drawn on the photo that was sent, as the server draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from camserve.answer.render import Scene, draw
from camserve.errors import ConfigError
from camserve.intake.decode import decode
from camserve.settings import OWN_LIMITS

if TYPE_CHECKING:
    from camserve.client.answers import Answer, Explanation


def draw_explanation(
    answer: Answer, explanation: Explanation, name: str, size: int | None, palette: str, opacity: float
) -> Image.Image:
    """Return one map of an answer on its photo, RGB, in the format of that ``name``.

    ConfigError: there is no map, or no photo. BadOption: no such format or palette.
    """
    if explanation.grid is None:
        raise ConfigError(f"there is no map to draw: its status is {explanation.status}, or format left out the grid")
    if not answer.photo:
        raise ConfigError("there is no photo to draw on: read_answer got none")
    image = decode(answer.photo, OWN_LIMITS).image
    across, down = image.width / answer.input.width, image.height / answer.input.height
    left, top, right, bottom = answer.input.region
    scene = Scene(
        image,
        (left * across, top * down, right * across, bottom * down),
        explanation.grid if explanation.compat is not None else explanation.grid * np.float32(explanation.shown),
        palette,
        opacity,
        size or min(OWN_LIMITS.max_picture_side, max(answer.input.width, answer.input.height)),
        evidence=explanation.evidence,
    )
    return draw(name, scene)
