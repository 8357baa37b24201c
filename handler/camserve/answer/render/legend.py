"""The strip under a drawn map: what it shows, and its colour bar."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from camserve.answer.render.canvas import Caption, Scene
from camserve.answer.render.palette import colours, levels
from camserve.answer.render.text import draw_text, wrap_text

STRIP_COLOUR, TEXT_COLOUR, EDGE_COLOUR = (255, 255, 255), (32, 32, 32), (128, 128, 128)
WARNING_COLOUR = (160, 48, 0)
LEAST_TEXT = 12  # pixels, the font's size
SIDE_PER_TEXT = 45  # pixels of the picture's longest side for one pixel of the font's size
LEAST_BAR = 5  # text sizes, the bar's length: three ticks stay apart
LEAST_LINE = 18  # text sizes, the width of a caption's lines
MOST_LINES = 3  # of each part of a caption
LEADING = 1.5  # text sizes from one line to the next: marks above capitals find room


def add_strip(drawn: Image.Image, scene: Scene, with_bar: bool) -> Image.Image:
    """Return the drawn picture with a white strip below it: the scene's caption, and its colour bar.

    The picture's own pixels stay as they are. Where it is narrower than the strip needs, white is added on its right.
    """
    size = max(LEAST_TEXT, round(max(drawn.size) / SIDE_PER_TEXT))
    parts = [drawn]
    if scene.caption is not None:
        parts.append(_draw_caption(scene.caption, max(drawn.width, LEAST_LINE * size), size))
    if with_bar and scene.legend is not None:
        parts.append(_draw_legend(scene, max(part.width for part in parts), size))
    framed = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), STRIP_COLOUR)
    top = 0
    for part in parts:
        framed.paste(part, (0, top))
        top += part.height
    return framed


def _draw_caption(caption: Caption, width: int, size: int) -> Image.Image:
    pad, leading = round(size * 0.8), round(size * LEADING)
    parts = [(caption.subject, TEXT_COLOUR), (caption.question, TEXT_COLOUR), (caption.warnings, WARNING_COLOUR)]
    lines = [
        (line, colour) for text, colour in parts if text for line in wrap_text(text, size, width - 2 * pad, MOST_LINES)
    ]
    strip = Image.new("RGB", (width, pad + len(lines) * leading), STRIP_COLOUR)
    for number, (line, colour) in enumerate(lines):
        mask = draw_text(line, size)
        strip.paste(colour, (pad, pad + (number + 1) * leading - mask.height), mask)
    return strip


def _draw_legend(scene: Scene, width: int, size: int) -> Image.Image:
    """Return the strip of the palette, its ticks, and what the value 1 stands for."""
    pad, thick = round(size * 0.8), round(size * 0.8)
    caption = draw_text(scene.legend or "", size)
    width = max(width, LEAST_BAR * size + caption.width + 3 * pad)
    strip = Image.new("RGB", (width, pad + thick + pad // 2 + size + pad), STRIP_COLOUR)
    bar = (pad, pad, width - 2 * pad - caption.width, pad + thick)
    _draw_bar(strip, bar, scene)
    _draw_ticks(strip, bar, scene, size)
    strip.paste(TEXT_COLOUR, (width - pad - caption.width, pad + (thick - caption.height) // 2), caption)
    return strip


def _draw_bar(strip: Image.Image, bar: tuple[int, int, int, int], scene: Scene) -> None:
    left, top, right, bottom = bar
    values = np.linspace(-1 if scene.signed else 0, 1, right - left, dtype=np.float32)
    painted = colours(levels(np.tile(values, (bottom - top, 1)), scene.drawn_palette), scene.drawn_palette)
    strip.paste(painted, (left, top))
    ImageDraw.Draw(strip).rectangle((left - 1, top - 1, right, bottom), outline=EDGE_COLOUR)


def _draw_ticks(strip: Image.Image, bar: tuple[int, int, int, int], scene: Scene, size: int) -> None:
    left, _, right, bottom = bar
    length = max(3, size // 4)
    for share, label in zip((0, 0.5, 1), ("-1", "0", "1") if scene.signed else ("0", "0.5", "1")):
        at = left + round(share * (right - 1 - left))
        ImageDraw.Draw(strip).line((at, bottom, at, bottom + length), fill=TEXT_COLOUR)
        text = draw_text(label, size)
        centred = min(max(at - text.width // 2, 0), strip.width - text.width)
        strip.paste(TEXT_COLOUR, (centred, bottom + length + 2), text)
