"""Draw the pictures of docs/reading-heatmaps.md, from the shipped model and photos of scikit-image (CC0).

Run from a clone: .venv/bin/python scripts/studies/reading_pictures.py [NAME ...] [--transformer WORK/dino.mar]. Without
names it draws all, tokens.jpg where there is the transformer that scripts/studies/evidence makes.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import Recipe, load_recipe
from camserve.cli.terminal import say
from camserve.evaluate.asking import Asker
from camserve.evaluate.attack import attack, picture_of
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest
from map_measures import AIRLINER

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "reading"
SIDE, GAP, QUALITY = 280, 8, 80  # pixels; of JPEG
CAT, CUP = "chelsea", "coffee"
BEFORE = "_bn1"  # the layer before the last activation, where half of the values are negative
BOX, WIDTH = "#00e5ff", 3  # colour and pixels
TOKENS = "tokens"
SEEN, ATTACKED = "the cat as the network is shown it", "the same, attacked"

# The photo and the options of each part of a picture, from left to right.
PICTURES: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]] = {
    "weak": [(CAT, {"target": "tiger cat"}), (CAT, {"target": "espresso"}), (CUP, {"target": "espresso"})],
    "sanity": [
        (CAT, {"target": "tiger cat", "method": "eigencam"}),
        (CAT, {"target": "espresso", "method": "eigencam"}),
        (CAT, {"target": "tiger cat", "method": "gradcam"}),
    ],
    "contrast": [
        (CAT, {"target": "tiger cat", "evidence": "signed"}),
        (CAT, {"target": "tiger cat", "contrast": "Egyptian cat", "evidence": "signed"}),
        (CAT, {"target": "tiger cat", "contrast": "Egyptian cat"}),
    ],
    "attacked": [
        (SEEN, {"target": "tiger cat"}),
        (ATTACKED, {"target": "predicted"}),
        (ATTACKED, {"target": "tiger cat"}),
    ],
    "boxes": [(CUP, {"target": "espresso", "box_threshold": share}) for share in ("0.15", "0.2", "0.5")],
    "halves": [
        (CAT, {"target": "tiger cat", "method": "gradcam+", "evidence": "signed"}),
        (CAT, {"target": "tiger cat", "method": "gradcam-"}),
        (CAT, {"target": "tiger cat", "evidence": "signed"}),
    ],
    "negatives": [
        (CAT, {"target": "tiger cat"}),
        (CAT, {"target": "tiger cat", "layer": BEFORE}),
        (CAT, {"target": "tiger cat", "layer": BEFORE, "method": "hirescam"}),
    ],
    "pixels": [
        (CAT, {"target": "tiger cat", "method": "gradient", "format": "heatmap"}),
        (CAT, {"target": "tiger cat", "method": "guided_backprop", "format": "heatmap"}),
        (CAT, {"target": "tiger cat", "method": "cmwp"}),
    ],
    TOKENS: [(CAT, {"target": "mammal", "method": method}) for method in ("gradcam", "layercam", "hirescam")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--transformer", type=Path, metavar="FILE.mar")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    names = args.names or list(PICTURES)
    if args.transformer is not None and TOKENS in names:
        with open_archive(args.transformer) as pipeline:
            draw_all(pipeline, [TOKENS])
    if shown := [name for name in names if name != TOKENS]:
        with tempfile.TemporaryDirectory(prefix="camserve-reading-") as work:
            archive = build_archive(read_recipe(), Path(work), say)
            with open_archive(archive) as pipeline:
                draw_all(pipeline, shown)


def read_recipe() -> Recipe:
    """Return the shipped model's recipe, with the methods and the layer that the pictures need beside its own."""
    recipe = load_recipe(ROOT / "config" / "models" / "imagenet.yaml")
    more = ("gradient", "cmwp", "guided_backprop")
    return replace(recipe, methods=(*recipe.methods, *more), layer=("auto", BEFORE))


def draw_all(pipeline: Pipeline, names: Sequence[str]) -> None:
    """Draw the pictures of these names."""
    photos = {name: find_file(f"package://skimage/data/{name}.png").read_bytes() for name in (CAT, CUP)}
    if "attacked" in names:
        asker = Asker(pipeline, ())
        photos[SEEN] = picture_of(asker, asker.read(photos[CAT]))
        photos[ATTACKED] = attack(asker, photos[CAT], AIRLINER)
    for name in names:
        path = OUT / f"{name}.jpg"
        drawn = [_draw(pipeline, photos[photo], options) for photo, options in PICTURES[name]]
        _side_by_side(drawn).save(path, "JPEG", quality=QUALITY)
        say(f"wrote {path}, {path.stat().st_size} bytes")


def _draw(pipeline: Pipeline, content: bytes, options: Mapping[str, str]) -> Image.Image:
    """Return one map as it is served, with its first box where the options say how boxes are cut; print its figures."""
    usual = {"format": "overlay", "size": str(SIDE), "legend": "true", "details": "signs"}
    fields = {**usual, **options, "format": f"{options.get('format', 'overlay')},boxes"}
    answer = json.loads(pipeline.answer([RawRequest(content, {**fields, "explain": "true"})])[0].body)
    (found,) = answer["explanations"]
    codes = [warning["code"] for warning in answer["warnings"]]
    say(f"{dict(options)}: {found.get('signs')}, {codes}, {answer['predictions'][0]}")
    uri = found["images"][options.get("format", "overlay")]
    picture = Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    if "box_threshold" in options:
        scale = picture.width / answer["input"]["width"]
        ImageDraw.Draw(picture).rectangle([side * scale for side in found["boxes"][0]], outline=BOX, width=WIDTH)
    return picture


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    height = max(picture.height for picture in pictures)
    whole = Image.new("RGB", (sum(picture.width + GAP for picture in pictures) - GAP, height), "white")
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + GAP
    return whole


if __name__ == "__main__":
    main()
