"""Find the method, the layer and the threshold of boxes that suit labelled photos.

Every second photo chooses, the others tell the figures. The archive's default stays unless another map is better for
sure (p below .05 of paired differences, after Holm's correction), and a method that hardly depends on the classifier's
weights cannot win. DATA as for camserve evaluate.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import load_recipe, write_recipe
from camserve.cli.evaluate import add_plan_options, plan_of
from camserve.cli.terminal import say
from camserve.evaluate.choice import VariantChoice, choose_variant
from camserve.evaluate.evidence_card import keep_evidence_card, make_evidence_card
from camserve.evaluate.measures import MEASURES
from camserve.evaluate.photos import LabelledPhoto, read_photos
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures
from camserve.evaluate.run import evaluate, hash_photos
from camserve.evaluate.select import choose_photos, usual_measure
from camserve.settings import Settings

EXAMPLE = """examples:
  camserve choose model_store/imagenet.mar --data boxes.csv
  camserve choose model_store/imagenet.mar --data photos --by insertion --write-card
  camserve choose model_store/flowers.mar --data boxes.csv --recipe flowers.yaml --save-recipe chosen.yaml
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_plan_options(parser)
    parser.add_argument(
        "--by", choices=MEASURES, help="what decides (energy; insertion where no photo has boxes or masks)"
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE.yaml", help="the archive's recipe, for --save-recipe")
    parser.add_argument("--save-recipe", type=Path, metavar="FILE.yaml", help="write the recipe with what won")
    parser.add_argument("--write-card", action="store_true", help="write defaults, figures, date and data into N.mar")


def run(args: argparse.Namespace) -> int:
    """Choose, print why, and write it down."""
    if (args.recipe is None) != (args.save_recipe is None):
        args.parser.error("--recipe and --save-recipe go together")
    with open_archive(args.archive) as pipeline:
        photos = choose_photos(read_photos(args.data, pipeline.heads[0].labels, say), args.photos, args.seed)
        settings, by = pipeline.settings, args.by or usual_measure(photos)
        args.measures = args.measures or MEASURES[by].group
        plan = plan_of(args, settings)
        rows = list(evaluate(pipeline, photos, plan, say, args.keep))
        choice = choose_variant(rows, plan.variants, by, settings.measures.methods)
    print(choice.reason)
    print(
        f"figures of the {choice.held_out.photos} photos that did not choose, accuracy {choice.held_out.accuracy:.3f}"
    )
    keys = ", ".join(f'{name}: "{value}"' for name, value in choice.defaults.items())
    print(f"defaults: {{{keys}}}")
    _write(args, choice, plan, by, photos, settings, rows)
    return 0


def _write(
    args: argparse.Namespace,
    choice: VariantChoice,
    plan: EvaluationPlan,
    by: str,
    photos: list[LabelledPhoto],
    settings: Settings,
    rows: Sequence[PhotoMeasures],
) -> None:
    layer = choice.variant.layer
    if layer and layer != settings.layers[0].name:
        print(f"layer: {layer} (write it first into the recipe, and build again)")
    if args.save_recipe:
        recipe = load_recipe(args.recipe)
        defaults = dataclasses.replace(recipe.defaults, **choice.defaults)
        write_recipe(dataclasses.replace(recipe, defaults=defaults, layer=layer or recipe.layer), args.save_recipe)
        say(f"wrote {args.save_recipe}")
    if args.write_card:
        made = date.today().isoformat(), hash_photos(photos)
        card = make_evidence_card(choice.held_out, plan, by, settings.measures.methods, *made, choice.reason)
        keep_evidence_card(args.archive, card, rows, choice.defaults, say)
        if settings.monitoring.baseline is not None and choice.variant.method != settings.defaults.method:
            say(f"its baseline is of {settings.defaults.method}: measure it again with camserve baseline")
