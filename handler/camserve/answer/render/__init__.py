"""Pictures of a map: every format is one function from a scene to an image, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from PIL import Image

from camserve.answer.render.boxes import boxes
from camserve.answer.render.canvas import Caption, Scene
from camserve.answer.render.heatmap import heatmap
from camserve.answer.render.legend import add_strip
from camserve.answer.render.mask import mask
from camserve.answer.render.overlay import overlay
from camserve.errors import choose

__all__ = ["DRAWERS", "Caption", "Scene", "boxes", "draw", "encode"]

Format = Callable[[Scene], Image.Image]

DRAWERS: Mapping[str, Format] = {
    "overlay": overlay,
    "heatmap": heatmap,
    "mask": mask,
}

COLOURED = ("overlay", "heatmap")  # those that show a palette

ENCODING: Mapping[str, Mapping[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {"compress_level": 3},
    "WEBP": {"quality": 90},
}


def draw(name: str, scene: Scene) -> Image.Image:
    """Draw a scene in the format of that name: RGB, at the scene's size. BadOption: no such format or palette.

    A scene with a caption or a legend is drawn with a strip below it; the legend where the format shows the palette.
    """
    drawn = choose(DRAWERS, name, "format")(scene)
    with_bar = scene.legend is not None and name in COLOURED
    return add_strip(drawn, scene, with_bar) if with_bar or scene.caption is not None else drawn


def encode(image: Image.Image, kind: str) -> bytes:
    """Write JPEG, PNG or WEBP: the same bytes for the same pixels, without metadata. BadOption: another kind."""
    options = choose(ENCODING, kind, "picture format")
    bare = image.copy()
    bare.info = {}  # Pillow would copy a photo's profile and comments from there
    buffer = BytesIO()
    bare.save(buffer, kind, **options)
    return buffer.getvalue()
