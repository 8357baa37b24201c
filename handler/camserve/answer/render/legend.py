"""The colour bar under a drawn map."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Union

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camserve.answer.render.canvas import Scene
from camserve.answer.render.palette import colours, levels

STRIP_COLOUR, TEXT_COLOUR, EDGE_COLOUR = (255, 255, 255), (32, 32, 32), (128, 128, 128)
LEAST_TEXT = 12  # pixels, the font's size
SIDE_PER_TEXT = 45  # pixels of the picture's longest side for one pixel of the font's size
LEAST_BAR = 5  # text sizes, the bar's length: three ticks stay apart
BITMAP_TEXT = 11  # pixels, the only size of Pillow's font where it has no FreeType

Font = Union[ImageFont.FreeTypeFont, ImageFont.ImageFont]


def add_legend(drawn: Image.Image, scene: Scene) -> Image.Image:
    """Return the drawn picture with a strip below it: the palette, ticks, and the scene's caption.

    The picture's own pixels stay as they are. Where it is narrower than the strip needs, white is added on its right.
    """
    size = max(LEAST_TEXT, round(max(drawn.size) / SIDE_PER_TEXT))
    pad, thick = round(size * 0.8), round(size * 0.8)
    caption = _text(scene.legend or "", size)
    width = max(drawn.width, LEAST_BAR * size + caption.width + 3 * pad)
    top = drawn.height + pad
    bar = (pad, top, width - 2 * pad - caption.width, top + thick)
    framed = Image.new("RGB", (width, top + thick + pad // 2 + size + pad), STRIP_COLOUR)
    framed.paste(drawn, (0, 0))
    _draw_bar(framed, bar, scene)
    _draw_ticks(framed, bar, scene, size)
    framed.paste(TEXT_COLOUR, (width - pad - caption.width, top + (thick - caption.height) // 2), caption)
    return framed


def _draw_bar(framed: Image.Image, bar: tuple[int, int, int, int], scene: Scene) -> None:
    left, top, right, bottom = bar
    values = np.linspace(-1 if scene.signed else 0, 1, right - left, dtype=np.float32)
    painted = colours(levels(np.tile(values, (bottom - top, 1)), scene.drawn_palette), scene.drawn_palette)
    framed.paste(painted, (left, top))
    ImageDraw.Draw(framed).rectangle((left - 1, top - 1, right, bottom), outline=EDGE_COLOUR)


def _draw_ticks(framed: Image.Image, bar: tuple[int, int, int, int], scene: Scene, size: int) -> None:
    left, _, right, bottom = bar
    length = max(3, size // 4)
    for share, label in zip((0, 0.5, 1), ("-1", "0", "1") if scene.signed else ("0", "0.5", "1")):
        at = left + round(share * (right - 1 - left))
        ImageDraw.Draw(framed).line((at, bottom, at, bottom + length), fill=TEXT_COLOUR)
        text = _text(label, size)
        centred = min(max(at - text.width // 2, 0), framed.width - text.width)
        framed.paste(TEXT_COLOUR, (centred, bottom + length + 2), text)


def _text(text: str, size: int) -> Image.Image:
    """Return the text as a grey mask, as high as the font's digits and letters."""
    font = _font(size)
    _, top, _, bottom = font.getbbox("1p")
    left, _, right, _ = font.getbbox(text)
    mask = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font)
    if isinstance(font, ImageFont.FreeTypeFont):
        return mask
    times = max(1, round(size / BITMAP_TEXT))
    return mask.resize((mask.width * times, mask.height * times), Image.Resampling.NEAREST)


@lru_cache(maxsize=32)
def _font(size: int) -> Font:
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError):  # a Pillow without FreeType has one bitmap font
        return ImageFont.load_default()
