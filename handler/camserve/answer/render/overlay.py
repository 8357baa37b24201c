"""The photo with its map blended in."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from camserve.answer.render.canvas import Pixels, PlacedMap, Scene, photo, place
from camserve.answer.render.palette import colours, level_values, levels

OUTSIDE_BRIGHTNESS = 0.45  # of its brightness that the photo keeps where the model saw nothing
BORDER = (240, 240, 240)
SIDE_PER_BORDER = 600  # pixels of the longest side for one pixel of line


def overlay(scene: Scene) -> Image.Image:
    """Blend the map into the photo; what the model never saw is grey and dark, behind a thin line.

    The share of colour at the value v is opacity * |v| * (2 - |v|): no evidence, no colour. One share everywhere
    washes the photo out, a linear one hides the middle of the map, a square root creases where the sign changes.
    Under a signed map the photo loses its own reds and blues, by the same opacity.
    """
    placement = place(scene)
    drawn = photo(scene)
    for strip in _outside(placement):
        drawn.paste(_subdued(drawn.crop(strip)), strip)
    _blend(drawn, placement, scene)
    _frame(drawn, placement.inside)
    return drawn


def _outside(placement: PlacedMap) -> list[Pixels]:
    width, height = placement.size
    left, top, right, bottom = placement.inside
    strips = [(0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)]
    return [strip for strip in strips if strip[0] < strip[2] and strip[1] < strip[3]]


def _subdued(part: Image.Image) -> Image.Image:
    return part.convert("L").point([round(level * OUTSIDE_BRIGHTNESS) for level in range(256)]).convert("RGB")


def _blend(drawn: Image.Image, placement: PlacedMap, scene: Scene) -> None:
    palette = scene.drawn_palette
    at = levels(placement.values, palette)
    if scene.signed:
        part = drawn.crop(placement.inside)
        drawn.paste(Image.blend(part, part.convert("L").convert("RGB"), scene.opacity), placement.inside)
    strength = np.abs(level_values(palette))
    shares = scene.opacity * strength * (2 - strength)
    drawn.paste(colours(at, palette), placement.inside, at.point(np.rint(shares * 255).astype(int).tolist()))


def _frame(drawn: Image.Image, inside: Pixels) -> None:
    """Draw the region's border just outside of it; along an edge of the photo that is off the picture."""
    wide = max(1, round(max(drawn.size) / SIDE_PER_BORDER))
    left, top, right, bottom = inside
    box = (left - wide, top - wide, right + wide - 1, bottom + wide - 1)
    ImageDraw.Draw(drawn).rectangle(box, outline=BORDER, width=wide)
