"""Words under a drawn picture, with the one font that every Pillow brings."""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from typing import NamedTuple, Union

from PIL import Image, ImageDraw, ImageFont

BITMAP_TEXT = 11  # pixels, the only size of Pillow's font where it has no FreeType
WRITTEN_OUT = {"ß": "ss", "ẞ": "SS", "–": "-", "—": "-", "’": "'", "“": '"', "”": '"', "„": '"', "…": "..."}
# Pillow's font has ASCII alone. The strokes of the marks that it lacks: x and y in shares of the font's size, from the
# middle of the letter's upper edge.
STROKES = {
    "\u0308": (((-0.13, -0.13), (-0.13, -0.13)), ((0.13, -0.13), (0.13, -0.13))),  # diaeresis: two dots
    "\u0301": (((-0.05, -0.1), (0.1, -0.22)),),  # acute
    "\u0300": (((0.05, -0.1), (-0.1, -0.22)),),  # grave
    "\u0302": (((-0.12, -0.1), (0.0, -0.2)), ((0.0, -0.2), (0.12, -0.1))),  # circumflex
    "\u030c": (((-0.12, -0.2), (0.0, -0.1)), ((0.0, -0.1), (0.12, -0.2))),  # caron
    "\u0303": (((-0.13, -0.12), (-0.04, -0.18)), ((-0.04, -0.18), (0.04, -0.12)), ((0.04, -0.12), (0.13, -0.18))),
}
HEADROOM = 0.25  # of the size, above capitals: their marks

Font = Union[ImageFont.FreeTypeFont, ImageFont.ImageFont]


class Folded(NamedTuple):
    """A text in the letters of the font, and the marks above some of them."""

    letters: str
    marks: list[tuple[int, str]]  # the place of a letter, and the combining character above it


def fold_marks(text: str) -> Folded:
    """Return a text without the marks that are drawn; control characters become spaces, other letters stay."""
    letters, marks = "", []
    for char in text:
        char = char if char.isprintable() else " "
        parts = unicodedata.normalize("NFD", char)
        if len(parts) == 2 and parts[0].isascii() and parts[1] in STROKES:
            marks.append((len(letters), parts[1]))
            letters += parts[0]
        else:
            letters += WRITTEN_OUT.get(char, char)
    return Folded(letters, marks)


def draw_text(text: str, size: int) -> Image.Image:
    """Return the text as a grey mask, as high as the font's digits and letters and their marks.

    A letter that the font lacks is an empty box, or a question mark where Pillow has no FreeType.
    """
    font = find_font(size)
    if isinstance(font, ImageFont.FreeTypeFont):
        return _draw_scalable(fold_marks(text), font, size)
    letters = fold_marks(text).letters.encode("ascii", "replace").decode()
    mask = _draw_letters(letters, font, 0)
    times = max(1, round(size / BITMAP_TEXT))
    return mask.resize((mask.width * times, mask.height * times), Image.Resampling.NEAREST)


def _draw_scalable(folded: Folded, font: ImageFont.FreeTypeFont, size: int) -> Image.Image:
    room = math.ceil(size * HEADROOM) if folded.marks else 0
    mask = _draw_letters(folded.letters, font, room)
    draw, (left, _, _, _) = ImageDraw.Draw(mask), font.getbbox(folded.letters)
    thick = max(1, round(size / 12))
    for place, mark in folded.marks:
        letter = folded.letters[place]
        middle = font.getlength(folded.letters[:place]) - left + font.getlength(letter) / 2
        top = room + font.getbbox(letter)[1] - font.getbbox("1p")[1]
        for (x0, y0), (x1, y1) in STROKES[mark]:
            ends = (middle + x0 * size, top + y0 * size, middle + x1 * size, top + y1 * size)
            draw.line(ends, fill=255, width=thick) if (x0, y0) != (x1, y1) else _draw_dot(draw, ends[:2], thick)
    return mask


def _draw_dot(draw: ImageDraw.ImageDraw, at: tuple[float, ...], thick: int) -> None:
    x, y = round(at[0] - thick / 2), round(at[1] - thick / 2)
    draw.rectangle((x, y, x + thick - 1, y + thick - 1), fill=255)


def _draw_letters(letters: str, font: Font, room: int) -> Image.Image:
    _, top, _, bottom = font.getbbox("1p")
    left, _, right, _ = font.getbbox(letters)
    mask = Image.new("L", (max(1, math.ceil(right - left)), math.ceil(bottom - top) + room))
    ImageDraw.Draw(mask).text((-left, room - top), letters, fill=255, font=font)
    return mask


def wrap_text(text: str, size: int, width: int, most: int) -> list[str]:
    """Return at most so many lines that are no wider than ``width`` pixels; what is cut off is three dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _is_short(longer, size, width):
            lines[-1] = longer
            continue
        pieces = _break_word(word, size, width)
        lines += pieces if lines[-1] else []
        lines = lines if lines[-1] else pieces
        if len(lines) > most:
            break
    if len(lines) > most:
        lines = [*lines[: most - 1], _shorten(lines[most - 1], size, width)]
    return lines


def _is_short(text: str, size: int, width: int) -> bool:
    return len(text) * size < width or find_font(size).getbbox(_shown(text, size))[2] <= width


def _shown(text: str, size: int) -> str:
    letters = fold_marks(text).letters
    is_scalable = isinstance(find_font(size), ImageFont.FreeTypeFont)
    return letters if is_scalable else letters.encode("ascii", "replace").decode()


def _break_word(word: str, size: int, width: int) -> list[str]:
    """Return the parts of a word that fit a line each."""
    pieces = [""]
    for char in word[:LONGEST_WORD]:
        if pieces[-1] and not _is_short(pieces[-1] + char, size, width):
            pieces.append("")
        pieces[-1] += char
    return pieces


def _shorten(line: str, size: int, width: int) -> str:
    while line and not _is_short(f"{line}...", size, width):
        line = line[:-1]
    return f"{line}..."


LONGEST_WORD = 1000  # characters: labels are anybody's


@lru_cache(maxsize=32)
def find_font(size: int) -> Font:
    """Return Pillow's own font."""
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError):  # a Pillow without FreeType has one bitmap font
        return ImageFont.load_default()
