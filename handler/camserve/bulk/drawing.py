"""From a kept answer and its photo to drawn maps, as a server draws them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from camserve.answer.caption import write_caption, write_legend
from camserve.answer.render import Scene, draw
from camserve.bulk.options import USUAL_SIDE, Look
from camserve.bulk.reading import load
from camserve.bulk.rows import Answer, Row, warning_codes
from camserve.bulk.sources import UNSAFE, cut_text
from camserve.errors import ConfigError, RequestError, TooManyPixels
from camserve.input_spec import InputSpec
from camserve.intake.decode import decode
from camserve.settings import OWN_LIMITS
from camserve.warning_codes import WEAK_EVIDENCE

ANY_FORMAT = InputSpec(extra_formats=("tiff", "avif"))
LONGEST_LABEL = 40  # bytes of it in a file's name


class NotDrawable(ConfigError):
    """The photo of an answer is not there, or is another."""


@dataclass(frozen=True)
class Drawn:
    """One drawn map."""

    name: str  # of its file, without a suffix
    image: Image.Image


def draw_row(row: Row, look: Look) -> Iterator[Drawn]:
    """Yield every map of a row in every format. NotDrawable: its photo cannot be read any more, or has another size."""
    assert row.answer is not None
    shown = [number for number, explanation in enumerate(row.answer["explanations"]) if explanation["grid"]]
    if not shown:
        return
    photo = load_photo(row, look.size or USUAL_SIDE)
    for number in shown:
        for name in look.formats:
            suffix = f"-{name}" if len(look.formats) > 1 else ""
            image = draw(name, make_scene(photo, row.answer, number, look))
            yield Drawn(f"{row.photo.name}-{map_name(row.answer, number)}{suffix}", image)


def load_photo(row: Row, side: int) -> Image.Image:
    """Return the photo of a row, upright, its longest side of ``side`` pixels or little more, or smaller.

    NotDrawable: it cannot be read any more, or has another size than what was asked about.
    """
    assert row.answer is not None
    picture, explained = load(row.photo, OWN_LIMITS.max_bytes), row.answer["input"]
    # No more is decoded than was asked about: another picture may lie there now.
    limits = replace(OWN_LIMITS, max_pixels=max(1, explained["width"] * explained["height"]))
    if picture.code:
        raise NotDrawable(f"{row.photo.path}: {picture.message}: its maps are not drawn")
    try:
        decoded = decode(picture.content, limits, lambda width, height: _at_least(width, height, side), ANY_FORMAT)
    except TooManyPixels:
        raise _other_picture(row) from None
    except RequestError as error:
        raise NotDrawable(f"{row.photo.path}: {error}: its maps are not drawn") from None
    if (decoded.width, decoded.height) != (explained["width"], explained["height"]):
        raise _other_picture(row)
    return decoded.image


def _other_picture(row: Row) -> NotDrawable:
    return NotDrawable(f"{row.photo.path} is another picture than the one explained: its maps are not drawn")


def _at_least(width: int, height: int, side: int) -> tuple[int, int]:
    share = min(1.0, side / max(width, height))
    return max(1, round(width * share)), max(1, round(height * share))


def make_scene(photo: Image.Image, answer: Answer, number: int, look: Look) -> Scene:
    """Return what is drawn of one map of an answer."""
    explanation, source = answer["explanations"][number], answer["input"]
    across, down = photo.width / source["width"], photo.height / source["height"]
    left, top, right, bottom = source["region"]
    codes = warning_codes(answer, number)
    compat = explanation.get("compat")
    shown = find_fading(explanation, codes, look) if compat is None else 1.0
    legend = write_legend(explanation["status"], explanation["scale"], shown, compat)
    caption = write_caption(
        explanation["target"],
        explanation["contrast"],
        explanation["method"],
        explanation["evidence"],
        codes,
        explanation.get("of_channels"),
    )
    return Scene(
        photo,
        (left * across, top * down, right * across, bottom * down),
        np.array(explanation["grid"], np.float32) * np.float32(shown),
        look.palette,
        look.opacity,
        look.size or min(USUAL_SIDE, max(source["width"], source["height"])),
        explanation["evidence"],
        legend if look.legend or look.caption else None,
        caption if look.caption else None,
    )


def find_fading(explanation: dict[str, Any], codes: list[str], look: Look) -> float:
    """Return by what a map is drawn fainter, 0..1; where its archive's limit is not known, by its strength."""
    strength = explanation["strength"]
    if strength is None or WEAK_EVIDENCE.code not in codes:
        return 1.0
    limit = look.weak_below.get(explanation["method"], 1.0)
    return min(1.0, strength / limit) if limit else 1.0


def map_name(answer: Answer, number: int) -> str:
    """Return what tells a map from the others of its answer, as a part of a file's name."""
    explanation = answer["explanations"][number]
    parts = [str(number + 1), _short(explanation["target"]["label"]), explanation["method"]]
    if explanation["contrast"]:
        parts.append(f"not-{_short(explanation['contrast']['label'])}")
    if explanation["evidence"] != "for":
        parts.append(explanation["evidence"])
    return "-".join(parts)


def _short(label: str) -> str:
    return cut_text(re.sub(r"[\s.]+", "_", UNSAFE.sub("_", label)), LONGEST_LABEL)


def thumbnail_look(look: Look, side: int) -> Look:
    """Return how a small picture is drawn: the first format alone, without words."""
    return replace(look, formats=look.formats[:1], size=side, legend=False, caption=False)
