"""Measure what an archive's maps are worth on labelled photos.

DATA is a folder with one sub-folder a class; a CSV with the columns path, label and, for places, x0, y0, x1, y1 in
pixels or mask, a picture above 0 at the object; COCO's instances JSON; or a folder of Pascal VOC. Measures of place
need boxes or masks. Each figure stands beside that of maps which know nothing: centre, uniform, random, edges.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from camserve.build.mar.unpack import open_archive
from camserve.build.write_file import write_text
from camserve.cli.terminal import count, say
from camserve.errors import ConfigError, unknown_choice
from camserve.evaluate.evidence_card import keep_evidence_card, make_evidence_card
from camserve.evaluate.measures import GROUPS, MEASURES, NAMED, USUAL_GROUPS
from camserve.evaluate.page import render_evaluation
from camserve.evaluate.photos import read_photos
from camserve.evaluate.plan import EvaluationPlan
from camserve.evaluate.run import describe_plan, evaluate, hash_photos
from camserve.evaluate.select import choose_photos, choose_variants, usual_measure
from camserve.evaluate.summary import summarise, table

EXAMPLE = """examples:
  camserve evaluate model_store/imagenet.mar --data photos --html report.html
  camserve evaluate model_store/imagenet.mar --data boxes.csv --methods gradcam,layercam --measures place
  camserve evaluate model_store/imagenet.mar --data instances_val2017.json --photos 200 --keep rows.jsonl
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_plan_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page: tables, intervals, photos")
    parser.add_argument("--write-card", action="store_true", help="write figures, verdicts, date and data into N.mar")


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of what is measured, which ``camserve choose`` has too."""
    parser.add_argument("archive", type=Path, metavar="N.mar")
    parser.add_argument("--data", type=Path, required=True, help="labelled photos, as above")
    parser.add_argument(
        "--methods", help="names with commas; the first is what others are compared with (all quick ones)"
    )
    parser.add_argument("--layers", help="names with commas, of the archive's (its default)")
    parser.add_argument("--measures", help=f"groups with commas: {', '.join(GROUPS)} (all but {', '.join(NAMED)})")
    parser.add_argument("--target", choices=("label", "predicted"), default="label", help="the class that is explained")
    parser.add_argument("--photos", type=count, metavar="N", help="so many, drawn by --seed (all)")
    parser.add_argument(
        "--steps", type=count, default=EvaluationPlan.steps, help="of deletion and insertion (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=EvaluationPlan.seed, help="of draws and noise (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FILE.jsonl", help="rows of photos; a stopped run goes on from it")


def run(args: argparse.Namespace) -> int:
    """Measure, and print the table."""
    with open_archive(args.archive) as pipeline:
        photos = choose_photos(read_photos(args.data, pipeline.heads[0].labels, say), args.photos, args.seed)
        plan = plan_of(args, pipeline.settings)
        rows = list(evaluate(pipeline, photos, plan, say, args.keep))
        summary = summarise(rows)
        for row in table(summary):
            print("  ".join(f"{cell:<19}" for cell in row).rstrip())
        usual = plan.variants[0]
        best = {kind: f"{chosen[usual.name]:g}" for kind, chosen in summary.thresholds.items() if usual.name in chosen}
        if "box" in best:
            print(f'boxes fit best with defaults: {{box_threshold: "{best["box"]}"}}')
        if "mask" in best:
            print(f"masks fit best from {best['mask']} of the map's maximum")
        print(f"{summary.photos} photos, accuracy {summary.accuracy:.3f}, data {hash_photos(photos)}")
        if args.json:
            found: dict[str, Any] = {"archive": pipeline.model.name, "weights": pipeline.model.weights}
            found |= {"data": hash_photos(photos), "plan": describe_plan(plan), **summary.as_json()}
            write_text(args.json, json.dumps(found, indent=1) + "\n")
        if args.html:
            title = f"{pipeline.model.name} {pipeline.model.version}: maps on {summary.photos} photos"
            write_text(args.html, render_evaluation(summary, pipeline, photos, usual, title))
    if args.write_card:
        by = next(name for name in (usual_measure(photos), *MEASURES) if name in summary.figures)  # there are some
        made = date.today().isoformat(), hash_photos(photos)
        card = make_evidence_card(summary, plan, by, pipeline.settings.measures.methods, *made)
        keep_evidence_card(args.archive, card, rows, {}, say)
    return 0


def plan_of(args: argparse.Namespace, settings: Any) -> EvaluationPlan:
    """Return what the command line asks for. ConfigError: the archive does not offer it."""
    variants = choose_variants(settings, _names(args.methods), _names(args.layers))
    groups = frozenset(_names(args.measures) or USUAL_GROUPS)
    for group in sorted(groups - set(GROUPS)):
        raise ConfigError(unknown_choice(group, GROUPS, "--measures"))
    return EvaluationPlan(variants, groups, args.target, args.steps, args.seed)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()
