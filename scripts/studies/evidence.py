"""Measure what maps are worth on labelled photos, from served answers, and write docs/evidence.md.

Run from a clone: CAMSERVE_DATA=FOLDER scripts/studies/evidence --keep WORK --backbone FILE.safetensors. FOLDER holds
imagenet-val-500/ and weights/; the backbone is what dino_backbone.py writes. WORK keeps archives and rows: a run that
was stopped goes on from there, and --page writes the page of what is there. Take a new folder after a change of the
code, so that no figure is of an earlier one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attacked_photos import measure_attacks, read_attacks
from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive, read_contents
from camserve.build.recipe import Recipe, load_recipe
from camserve.cli.terminal import say
from camserve.errors import CamserveError
from camserve.evaluate.plan import PhotoMeasures
from camserve.evaluate.run import name_of
from camserve.input_spec import InputSpec
from camserve.measures import KEPT, Measures
from evidence_tables import (
    attack_table,
    box_table,
    figure_table,
    halves_table,
    sanity_table,
    strength_table,
    warning_table,
)
from evidence_text import (
    ATTACK,
    BOXES,
    CHANGE,
    EARLIER,
    EARLIER_LINES,
    INTRODUCTION,
    PLACE,
    ROAD,
    SANITY,
    SLOW,
    STEADY,
    STRENGTH,
    TOKENS,
)
from labelled_photos import data_folder, read_boxed_photos, read_photos
from map_measures import AIRLINER, BOTH_HALVES, RUNS, STEPS, Part, measure, read_rows
from strength_measure import measure_strengths, read_strengths, write_strengths
from token_maps import HALVES, TOKENS_NAME, fit_tokens

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
RECIPE = Path(__file__).parents[2] / "config" / "models" / "imagenet.yaml"
PHOTO = "package://skimage/data/chelsea.png"
PHOTOS = "imagenet-val-500"
CONVOLUTIONAL = {"imagenet": "EfficientNet-Lite0", "mobilenet_v2": "MobileNetV2", "squeezenet1_1": "SqueezeNet 1.1"}
TRANSFORMER = "DINOv2 ViT-S"
TOGETHER = "all"
METHODS: tuple[str, ...] = (
    *("gradcam", "gradcam+", "gradcam-", "hirescam", "layercam", "xgradcam", "gradcam++", "eigengradcam", "cam"),
    *("eigencam", "reciprocam", "gradient", "input_x_gradient", "guided_backprop", "deconvnet", "guided_gradcam"),
    *("cmwp", "smoothgrad", "integrated_gradients", "scorecam", "ablationcam"),
)
ALL_NETWORKS = (*CONVOLUTIONAL, TOKENS_NAME)
SECTIONS = (STRENGTH, SANITY, PLACE, TOKENS, BOXES, STEADY, CHANGE, ROAD, SLOW, ATTACK)  # of the page
STRENGTHS, ATTACKS = "strength", "attack"
ALL_RUNS = (STRENGTHS, *RUNS, ATTACKS)
WITHOUT_CAM = ("squeezenet1_1",)  # which ends in a convolution


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, metavar="WORK", help="archives and rows")
    parser.add_argument("--backbone", type=Path, help="for the transformer, which is left out without it")
    parser.add_argument("--networks", nargs="+", choices=ALL_NETWORKS, default=ALL_NETWORKS)
    parser.add_argument("--runs", nargs="+", choices=[*ALL_RUNS], default=ALL_RUNS)
    parser.add_argument("--page", action="store_true", help="measure nothing more")
    args = parser.parse_args()
    try:
        folder = data_folder()
        if not args.page:
            measure_all(folder, args.keep, args.backbone, args.networks, args.runs)
        page = write_page(folder, args.keep, PAGE.read_text(encoding="utf-8"))
        PAGE.write_text(page, encoding="utf-8")
        say(f"wrote {PAGE}")
    except CamserveError as error:
        say(f"camserve: {error}")
        return 1
    return 0


def measure_all(folder: Path, keep: Path, backbone: Path | None, networks: Sequence[str], runs: Sequence[str]) -> None:
    """Measure what the folder does not keep yet, the cheapest of all networks first."""
    keep.mkdir(parents=True, exist_ok=True)
    boxed, photos = read_boxed_photos(folder / PHOTOS), read_photos(folder / PHOTOS)
    parts = {
        name: Part(archive_of(keep, recipe), boxed.labelled, boxed.is_small, AIRLINER)
        for name, recipe in recipes(folder).items()
        if name in networks
    }
    convolutional = list(parts) if STRENGTHS in runs else []
    for name in convolutional:
        kept = keep / f"{name}.strength.json"
        if not kept.exists():
            with open_archive(parts[name].archive) as pipeline:
                write_strengths(measure_strengths(pipeline, photos), kept)
    attacked = list(parts) if ATTACKS in runs else []
    halves = {}
    if backbone is not None and TOKENS_NAME in networks:
        parts[TOKENS_NAME] = fit_tokens(folder / PHOTOS, backbone, keep, PHOTO, say)
        if BOTH_HALVES in runs:
            halves = {
                name: fit_tokens(folder / PHOTOS, backbone, keep, PHOTO, say, at) for at, name in enumerate(HALVES)
            }
    for run in [run for run in RUNS if run in runs]:
        for name, part in (halves if run == BOTH_HALVES else parts).items():
            say(f"{run} of {name}: {sum(1 for _ in measure(part, run, keep, say))} rows")
    for name in attacked:
        say(f"attacks on {name}: {sum(1 for _ in measure_attacks(parts[name], keep, say))} photos")


def archive_of(keep: Path, recipe: Recipe) -> Path:
    archive = keep / f"{recipe.name}.mar"
    return archive if archive.exists() else build_archive(recipe, keep, say, fresh_process=False)


def recipes(folder: Path) -> Mapping[str, Recipe]:
    """Return the convolutional networks by name."""
    lite = replace(load_recipe(RECIPE), methods=METHODS)
    return {lite.name: lite} | {
        name: Recipe(
            name,
            str(folder / "weights" / f"{name}.pt"),
            f"torchvision.models:{name}",
            labels="imagenet",
            preprocess=InputSpec(resize=256, crop=224),
            methods=tuple(method for method in METHODS if method != "cam" or name not in WITHOUT_CAM),
            samples=lite.samples,
        )
        for name in CONVOLUTIONAL
        if name != lite.name
    }


def write_page(folder: Path, keep: Path, earlier: str) -> str:
    """Return the page of what a folder keeps; what was not measured stays as it was, and says so."""
    shown = {**CONVOLUTIONAL, TOKENS_NAME: TRANSFORMER}
    measures = {
        words: read_contents(keep / f"{name}.mar").settings.measures
        for name, words in shown.items()
        if (keep / f"{name}.mar").exists()
    }
    strengths = {
        words: read_strengths(keep / f"{name}.strength.json")
        for name, words in CONVOLUTIONAL.items()
        if (keep / f"{name}.strength.json").exists()
    }
    rows = {run: _rows(keep, run, shown) for run in RUNS}
    attacked = {words: read_attacks(keep, name) for name, words in CONVOLUTIONAL.items()}
    attacked = {words: found for words, found in attacked.items() if found}
    attacked[TOGETHER] = [row for some in attacked.values() for row in some]
    boxed = read_boxed_photos(folder / PHOTOS)
    small = {name_of(photo) for photo in boxed.small}
    convolutional = _without(measures, TRANSFORMER)
    by_network = {
        PLACE: _section(PLACE, rows["place"], ("pointing", "energy", "box")),
        BOXES: BOXES.format(boxes=box_table(rows["boxes"], small)) if rows["boxes"] else "",
        STEADY: _section(STEADY, rows["steady"], ("complexity", "jpeg", "noise", "shift", "random")),
        CHANGE: _section(CHANGE, rows["change"], ("deletion", "insertion", "drop", "gain")),
        ROAD: _section(ROAD, rows["road"], ("road",)),
        SLOW: _section(SLOW, rows["slow"], ("pointing", "energy", "complexity", "random")),
    }
    of_all = {
        STRENGTH: STRENGTH.format(strength=strength_table(strengths, measures)) if _is_whole(strengths) else "",
        SANITY: SANITY.format(kept=KEPT, sanity=sanity_table(convolutional)) if _is_whole(convolutional) else "",
        TOKENS: _tokens(measures, [row for name in HALVES for row in read_rows(keep, name, BOTH_HALVES)]),
        ATTACK: ATTACK.format(places=attack_table(attacked), warnings=warning_table(attacked, AIRLINER))
        if _is_whole(attacked)
        else "",
    }
    written = split_page(earlier)
    sections = []
    for text in SECTIONS:
        before = written.get(heading_of(text), "")
        new = keep_lines(by_network[text], before, list(shown.values())) if text in by_network else of_all[text]
        sections.append(new or _say_earlier(before))
    return INTRODUCTION.format(photos=len(boxed.labelled)) + "".join(sections)


def _is_whole(measured: Mapping[str, object]) -> bool:
    """Whether every convolutional network was measured: some tables are of all together."""
    return all(name in measured for name in CONVOLUTIONAL.values())


def keep_lines(new: str, before: str, networks: Sequence[str]) -> str:
    """Return a new section with the earlier lines of networks that were not measured anew, which it names."""
    measured, earlier = ({network: _lines_of(text, network) for network in networks} for text in (new, before))
    old = [network for network in networks if earlier[network] and not measured[network]]
    if not new or not old:
        return new
    head = next(line for line in new.split("\n") if line.startswith("| ---"))
    above, below = new.split(f"{head}\n")
    after = [line for line in below.split("\n") if not any(line in lines for lines in measured.values())]
    lines = [line for network in networks for line in measured[network] or earlier[network]]
    note = EARLIER_LINES.format(networks=", ".join(old))
    return _say_below_heading("\n".join([f"{above}{head}", *lines, *after]), note)


def _lines_of(section: str, network: str) -> list[str]:
    return [line for line in section.split("\n") if line.startswith(f"| {network} |")]


def heading_of(text: str) -> str:
    """Return the first heading of a section."""
    return next(line for line in text.split("\n") if line.startswith("## "))


def split_page(page: str) -> dict[str, str]:
    """Return the sections of a written page by their headings."""
    sections = [f"\n## {part.rstrip()}\n" for part in page.split("\n## ")[1:]]
    return {heading_of(section): section for section in sections}


def _say_earlier(section: str) -> str:
    """Return a section that was not measured anew, which says so; "" stays that."""
    return section if not section or EARLIER in section else _say_below_heading(section, EARLIER)


def _say_below_heading(section: str, note: str) -> str:
    heading = heading_of(section)
    return section.replace(f"{heading}\n", f"{heading}\n\n{note}\n", 1)


def _tokens(measures: Mapping[str, Measures], halves: Sequence[PhotoMeasures]) -> str:
    found = measures.get(TRANSFORMER)
    if found is None or not halves:
        return ""
    return TOKENS.format(halves=halves_table(halves), sanity=sanity_table({TRANSFORMER: found}))


def _without(measures: Mapping[str, Measures], name: str) -> dict[str, Measures]:
    return {other: measure for other, measure in measures.items() if other != name}


def _section(text: str, rows: Mapping[str, Sequence[PhotoMeasures]], measures: Sequence[str]) -> str:
    return text.format(table=figure_table(rows, measures), steps=STEPS) if rows else ""


def _rows(keep: Path, run: str, shown: Mapping[str, str]) -> dict[str, list[PhotoMeasures]]:
    found = {words: read_rows(keep, name, run) for name, words in shown.items()}
    return {words: rows for words, rows in found.items() if rows}


if __name__ == "__main__":
    sys.exit(main())
