"""Draw the pictures of docs/reading-heatmaps.md, from the shipped model and photos of scikit-image (CC0).

Run from a clone: .venv/bin/python scripts/studies/reading_pictures.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import load_recipe
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
}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="camserve-reading-") as work:
        archive = build_archive(load_recipe(ROOT / "config" / "models" / "imagenet.yaml"), Path(work), say)
        with open_archive(archive) as pipeline:
            draw_all(pipeline)


def draw_all(pipeline: Pipeline) -> None:
    """Draw every picture."""
    photos = {name: find_file(f"package://skimage/data/{name}.png").read_bytes() for name in (CAT, CUP)}
    asker = Asker(pipeline, ())
    photos[SEEN] = picture_of(asker, asker.read(photos[CAT]))
    photos[ATTACKED] = attack(asker, photos[CAT], AIRLINER)
    for name, parts in PICTURES.items():
        path = OUT / f"{name}.jpg"
        drawn = [_draw(pipeline, photos[photo], options) for photo, options in parts]
        _side_by_side(drawn).save(path, "JPEG", quality=QUALITY)
        say(f"wrote {path}, {path.stat().st_size} bytes")


def _draw(pipeline: Pipeline, content: bytes, options: Mapping[str, str]) -> Image.Image:
    row = RawRequest(content, {**options, "size": str(SIDE), "legend": "true"}, {"accept": "image/png"})
    return Image.open(BytesIO(pipeline.answer([row])[0].body)).convert("RGB")


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
