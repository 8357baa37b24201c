"""The map alone."""

from __future__ import annotations

from PIL import Image

from camserve.answer.render.canvas import Scene, place
from camserve.answer.render.palette import colours, levels

OUTSIDE_COLOUR = (128, 128, 128)


def heatmap(scene: Scene) -> Image.Image:
    """Draw the map in colour where it lies on the photo, and grey where the model saw nothing."""
    placement = place(scene)
    drawn = Image.new("RGB", placement.size, OUTSIDE_COLOUR)
    drawn.paste(colours(levels(placement.values, scene.drawn_palette), scene.drawn_palette), placement.inside)
    return drawn
