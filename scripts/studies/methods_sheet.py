"""Draw docs/methods.jpg from model_store/imagenet.mar: every method that works on its network, on one photo."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from camserve.attribution.methods import METHODS
from camserve.build.mar.file import extract_all
from camserve.build.mar.unpack import read_contents
from camserve.client.answers import read_answer
from camserve.serving.load import load_pipeline
from camserve.values import RawRequest

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "model_store" / "imagenet.mar"
TILE, LINE, ACROSS = 168, 20, 6  # pixels; tiles in a row
QUALITY = 80
COARSE = 56  # cells of a side
OF_TOKENS = ("attention", "vit_reciprocam")


def draw_maps(archive: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield the archive's first sample, and its map by each method, with their names."""
    contents = read_contents(archive)
    settings = dataclasses.replace(contents.settings, methods=tuple(name for name in METHODS if name not in OF_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        extract_all(archive, Path(folder))
        pipeline = load_pipeline(Path(folder), settings, contents.name, contents.version, torch.device("cpu"))
        photo = (Path(folder) / settings.samples[0]).read_bytes()
        yield "the photo", Image.open(Path(folder) / settings.samples[0]).convert("RGB")
        for method in settings.methods:
            (response,) = pipeline.answer([RawRequest(photo, {"method": method})])
            answer = read_answer(json.loads(response.body), photo)
            grid = answer.explanations[0].grid
            is_fine = grid is not None and len(grid) > COARSE  # specks, which an overlay hides
            yield method, answer.overlay(kind="heatmap") if is_fine else answer.overlay()


def draw_sheet(tiles: list[tuple[str, Image.Image]]) -> Image.Image:
    """Return the pictures in rows, each with its name below."""
    height = round(TILE * tiles[0][1].height / tiles[0][1].width)
    sheet = Image.new("RGB", (TILE * ACROSS, (height + LINE) * -(-len(tiles) // ACROSS)), "white")
    for number, (name, tile) in enumerate(tiles):
        left, top = number % ACROSS * TILE, number // ACROSS * (height + LINE)
        sheet.paste(tile.resize((TILE - 4, height), Image.Resampling.LANCZOS), (left, top))
        ImageDraw.Draw(sheet).text((left + 2, top + height + 2), name, fill="black", font=ImageFont.load_default(13))
    return sheet


if __name__ == "__main__":
    draw_sheet(list(draw_maps(ARCHIVE))).save(ROOT / "docs" / "methods.jpg", quality=QUALITY, optimize=True)
