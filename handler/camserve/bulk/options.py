"""The options of a run: what is asked of the model, and how its maps are drawn here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camserve.build.mar.unpack import Contents, read_contents, read_heads
from camserve.choices import DRAWN_FORMATS, PALETTES, TORCHSERVE
from camserve.errors import BadOption
from camserve.intake.option_parsers import PARSERS
from camserve.intake.option_values import decode_value, read_whole
from camserve.intake.options import OptionSchema
from camserve.settings import LIMIT_RANGES
from camserve.values import RawRequest

LOOKS = ("size", "palette", "opacity", "legend", "caption")  # drawn here, from the grid
PLAIN = (
    "channels",
    "evidence",
    "format",
    "details",
    "deadline_ms",
    "compat",
    "palette",
    "opacity",
    "legend",
    "caption",
)
LEAST_SIDE, MOST_SIDE = 16, LIMIT_RANGES["max_picture_side"][1]
USUAL_SIDE = 1024  # pixels, the most of a drawn picture's longest side where nothing is asked for


@dataclass(frozen=True)
class Look:
    """How maps are drawn."""

    formats: tuple[str, ...] = ("overlay",)
    size: int | None = None  # pixels of the longest side; None: those of the photo, at most ``USUAL_SIDE``
    palette: str = PALETTES[0]
    opacity: float = 0.6
    legend: bool = False  # a caption has one anyway
    caption: bool = True
    weak_below: Mapping[str, float] = field(default_factory=dict)  # method -> strength below which evidence is weak


def check_options(options: Mapping[str, str], archive: Path | None) -> Contents | None:
    """Refuse options that cannot be answered, as far as that is known before anything is loaded or sent.

    Returns what an archive holds; None: a server is asked, which knows its classes and methods alone. BadOption,
    UnknownClass: the message says what is wrong.
    """
    for name in PLAIN:
        if name in options:
            PARSERS[name](decode_value(options[name], name), _NO_OFFER)
    if options.get("compat") == TORCHSERVE:
        raise BadOption(f"option 'compat': {TORCHSERVE} answers without maps: leave it out")
    if "size" in options:
        read_whole(options["size"], "size", LEAST_SIDE, MOST_SIDE)
    if archive is None:
        return None
    contents = read_contents(archive)
    OptionSchema(contents.settings, read_heads(archive, contents)).options(RawRequest(fields=wire_options(options)))
    return contents


_NO_OFFER: Any = None  # these parsers look at the value alone


def wire_options(options: Mapping[str, str], drawn_here: bool = True) -> dict[str, str]:
    """Return what the model is asked: maps too, unless a condition is given; grids, where they are drawn here."""
    chosen = {"explain": "true", **options}
    if not drawn_here:
        return chosen
    formats = options.get("format", "").split(",")
    kept = [name for name in ("grid", "boxes") if name == "grid" or name in formats]
    return {**{name: value for name, value in chosen.items() if name not in LOOKS}, "format": ",".join(kept)}


def look_of(options: Mapping[str, str], contents: Contents | None) -> Look:
    """Return how maps are drawn, from checked options."""
    parsed: dict[str, Any] = {}
    for name in ("palette", "opacity", "legend", "caption"):
        if name in options:
            parsed.update(PARSERS[name](decode_value(options[name], name), _NO_OFFER))
    formats = tuple(name for name in options.get("format", "").split(",") if name in DRAWN_FORMATS)
    measures = {} if contents is None else contents.settings.measures.methods
    weak_below = {name: measure.weak_below for name, measure in measures.items() if measure.weak_below}
    size = int(options["size"]) if "size" in options else None
    return Look(formats=formats or Look.formats, size=size, weak_below=weak_below, **parsed)
