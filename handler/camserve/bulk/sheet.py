"""A contact sheet: the first map of many pictures in one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageOps

from camserve.answer.render import draw
from camserve.answer.render.text import draw_text, wrap_text
from camserve.answer.respond import word_meaning
from camserve.bulk.drawing import NotDrawable, load_photo, make_scene, thumbnail_look
from camserve.bulk.images import save_picture
from camserve.bulk.options import Look
from camserve.bulk.rows import Row, warning_codes

MOST_CELLS = 200  # pictures
SIDE, GAP = 200, 12  # pixels
TEXT, LEADING, LINES = 12, 17, 3  # pixels; lines below a picture
PAPER, EMPTY, INK = (255, 255, 255), (225, 225, 225), (32, 32, 32)


def write_sheet(rows: Iterable[Row], path: Path, look: Look) -> int:
    """Draw the first pictures of a run on one sheet and return how many; the first map of each, or its error."""
    shown = list(itertools.islice(rows, MOST_CELLS))
    columns = min(10, math.ceil(math.sqrt(len(shown) * 1.5)))
    across, down = SIDE + GAP, SIDE + LINES * LEADING + GAP
    sheet = Image.new("RGB", (columns * across + GAP, math.ceil(len(shown) / columns) * down + GAP), PAPER)
    for number, row in enumerate(shown):
        left, top = GAP + number % columns * across, GAP + number // columns * down
        sheet.paste(_cell(row, look), (left, top))
        for line, text in enumerate(_words(row)):
            mask = draw_text(text, TEXT)
            sheet.paste(INK, (left, top + SIDE + (line + 1) * LEADING - mask.height), mask)
    save_picture(sheet, path)
    return len(shown)


def _cell(row: Row, look: Look) -> Image.Image:
    drawn = draw_small(row, look, SIDE)
    if drawn is None:
        return Image.new("RGB", (SIDE, SIDE), EMPTY)
    return ImageOps.pad(drawn, (SIDE, SIDE), color=EMPTY)


def draw_small(row: Row, look: Look, side: int, number: int = 0) -> Image.Image | None:
    """Return a small picture of one map, or of the photo where there is none; None: it cannot be drawn."""
    if row.answer is None:
        return None
    try:
        photo = load_photo(row, side)
    except NotDrawable:
        return None
    explanations = row.answer["explanations"]
    if not explanations or not explanations[number]["grid"]:
        photo.thumbnail((side, side))
        return photo
    look = thumbnail_look(look, side)
    return draw(look.formats[0], make_scene(photo, row.answer, number, look))


def _words(row: Row) -> list[str]:
    if row.answer is None:
        lines = wrap_text((row.error or {}).get("message", ""), TEXT, SIDE, LINES - 1)
    else:
        best = row.answer["predictions"][0]
        codes = ", ".join(dict.fromkeys(warning_codes(row.answer, 0)))
        lines = [*wrap_text(f"{best['label']} {word_meaning(best, 3)}", TEXT, SIDE, 1), *([codes] if codes else [])]
        lines = [line for text in lines for line in wrap_text(text, TEXT, SIDE, 1)]
    return [*wrap_text(row.photo.name.rpartition("/")[2], TEXT, SIDE, 1), *lines]
