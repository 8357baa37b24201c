"""Colours for a map's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from camserve.errors import choose

PALETTE_LEVELS = 256


@dataclass(frozen=True)
class Palette:
    """Colours evenly spaced from the lowest value to 1, linear in between."""

    anchors: str  # six hexadecimal digits each, RGB
    lowest: float = 0.0  # the value of the first colour


# Every fifth colour of Turbo (A. Mikhailov, Google, Apache-2.0); its 256 are within 1/255 of the lines in between.
TURBO = (
    "30123b36215f3b2f803f3e9c424bb54559cb4666dd4773eb4680f6458cfd4099ff38a5fb2fb2f427bee91fc9dd1ad4d018ddc21ae4b6"
    "22ebaa2ff19b3ff68a52fa7a65fd6979fe598bff4b9cfe40a9fb39b7f735c3f134d0ea34dbe236e5d938eecf3af5c53afaba39fdae35"
    "fea130fe932afc8423f9751df46617ef5811e84b0ce14109d83706ce2d04c32503b71d02a916019b0f018b09027a0403"
)
# Every fifth colour of viridis (S. van der Walt and N. Smith, CC0), as exact as Turbo.
VIRIDIS = (
    "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b38598c355e8d33638d31688e"
    "2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc74"
    "46c06f50c46a5ac86465cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
)
# The corners and half-way points of clip(1.5 - |4x - (3, 2, 1)|, 0, 1), which is piecewise linear in eighths.
JET = "0000800000ff0080ff00ffff80ff80ffff00ff8000ff0000800000"
BLUE_WHITE_RED = "1f3f9f4f83d9a9c9eef5f5f5f2b49bdd6a4f9f1626"
AGAINST = "e8edfca9bcf66f8aea4556c92b2c90141150"  # from almost white to dark blue: never taken for evidence for

PALETTE_OF: Mapping[str, Palette] = {
    "turbo": Palette(TURBO),
    "viridis": Palette(VIRIDIS),
    "jet": Palette(JET),
    "against": Palette(AGAINST),
    "diverging": Palette(BLUE_WHITE_RED, lowest=-128 / 127),  # puts 0 on a level of its own
}


def colours(at: Image.Image, palette: str) -> Image.Image:
    """Colour a picture of ``levels``, RGB."""
    indexed = at.copy()
    indexed.putpalette(palette_colours(palette).tobytes())
    return indexed.convert("RGB")


def levels(values: np.ndarray, palette: str) -> Image.Image:
    """Return each value's place in the palette's table as a grey picture; values are 0..1, or -1..1 for diverging.

    BadOption: no such palette.
    """
    lowest = choose(PALETTE_OF, palette, "palette").lowest
    return Image.fromarray(np.rint((values - lowest) * ((PALETTE_LEVELS - 1) / (1 - lowest))).astype(np.uint8))


def level_values(palette: str) -> np.ndarray:
    """Return the value that each entry of the palette's table stands for, (256,)."""
    return np.linspace(choose(PALETTE_OF, palette, "palette").lowest, 1, PALETTE_LEVELS)


@cache
def palette_colours(palette: str) -> np.ndarray:
    """Return the palette's colours from the lowest value to the highest, (256, 3) uint8, read-only."""
    anchors = np.frombuffer(bytes.fromhex(choose(PALETTE_OF, palette, "palette").anchors), np.uint8).reshape(-1, 3)
    at = np.linspace(0, 1, len(anchors))
    wanted = np.linspace(0, 1, PALETTE_LEVELS)
    found = np.stack([np.interp(wanted, at, channel) for channel in anchors.T], axis=1)
    filled = np.rint(found).astype(np.uint8)
    filled.setflags(write=False)  # it is shared
    return filled
