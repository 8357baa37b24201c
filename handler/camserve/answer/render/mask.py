"""The photo through its map."""

from __future__ import annotations

import numpy as np
from PIL import Image

from camserve.answer.render.canvas import Scene, photo, place

THRESHOLD = 0.5  # of the maximum


def mask(scene: Scene) -> Image.Image:
    """Show the photo where the evidence for the target is at least half its maximum, and black elsewhere."""
    placement = place(scene)
    drawn = Image.new("RGB", placement.size)
    shown = Image.fromarray((placement.values >= THRESHOLD).astype(np.uint8) * 255)
    drawn.paste(photo(scene).crop(placement.inside), placement.inside, shown)
    return drawn
