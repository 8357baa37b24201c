"""Draw docs/methods.jpg: every method that works on the shipped network, on one photo."""

from __future__ import annotations

from pathlib import Path

from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageDraw, ImageFont

from camserve import Explainer
from camserve.attribution.methods import METHODS
from camserve.build.locate import find_file
from camserve.build.read_weights import read_checkpoint
from camserve.build.recipe import load_recipe

ROOT = Path(__file__).parents[2]
TILE, LINE, ACROSS = 168, 20, 6  # pixels; tiles in a row
QUALITY = 80


def draw_sheet() -> Image.Image:
    """Return a tile for the photo and one for each method, with its name below."""
    recipe = load_recipe(ROOT / "config" / "models" / "imagenet.yaml")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_checkpoint(find_file(recipe.weights), trust_pickle=False))
    explainer = Explainer(network, "imagenet", recipe.preprocess, methods=tuple(METHODS))
    photo = find_file(recipe.samples[0])
    tiles = [("the photo", Image.open(photo).convert("RGB"))]
    for method in explainer.describe()["methods"]:
        tiles.append((method, explainer(photo, method=method).overlay()))
    rows = -(-len(tiles) // ACROSS)
    height = round(TILE * tiles[0][1].height / tiles[0][1].width)
    sheet = Image.new("RGB", (TILE * ACROSS, (height + LINE) * rows), "white")
    for number, (name, tile) in enumerate(tiles):
        left, top = number % ACROSS * TILE, number // ACROSS * (height + LINE)
        sheet.paste(tile.resize((TILE - 4, height), Image.Resampling.LANCZOS), (left, top))
        ImageDraw.Draw(sheet).text((left + 2, top + height + 2), name, fill="black", font=ImageFont.load_default(13))
    return sheet


if __name__ == "__main__":
    draw_sheet().save(ROOT / "docs" / "methods.jpg", quality=QUALITY, optimize=True)
