"""The runs of the room ``evaluate`` that docs/evidence.md is made of, and their rows on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camserve.attribution.methods import METHODS
from camserve.build.json_lines import read_json_lines
from camserve.build.mar.unpack import open_archive
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures, Variant
from camserve.evaluate.run import evaluate
from camserve.values import Progress

AIRLINER = 404  # ImageNet's class that photos are attacked towards
STEPS = 10  # of deletion and insertion
COMPARED = ("gradcam", "layercam", "eigengradcam", "eigencam", "attention")  # of the measures that take long


@dataclass(frozen=True)
class Run:
    """What is measured together."""

    groups: frozenset[str]
    photos: int  # at most, of one network
    methods: tuple[str, ...]  # of those that the archive serves; or all that take one pass, or more
    is_small: bool = True  # of small objects alone


QUICK, SLOW = ("quick",), ("slow",)
BOTH_HALVES = "halves"  # of the transformer alone, for a comparison on more photos
RUNS: Mapping[str, Run] = {
    "place": Run(frozenset({"place"}), 120, QUICK),
    "steady": Run(frozenset({"shape", "stable", "random"}), 16, QUICK),
    "boxes": Run(frozenset({"place"}), 200, ("gradcam",), is_small=False),
    "change": Run(frozenset({"change"}), 16, COMPARED),
    "slow": Run(frozenset({"place", "shape", "random"}), 10, SLOW),
    "road": Run(frozenset({"road"}), 16, COMPARED),
    BOTH_HALVES: Run(frozenset({"place"}), 120, ("layercam", "gradcam")),
}


@dataclass(frozen=True)
class Part:
    """An archive and the photos that it is measured on."""

    archive: Path
    photos: Sequence[LabelledPhoto]
    is_small: Sequence[bool]
    attack_class: int

    def chosen(self, run: Run) -> list[LabelledPhoto]:
        """Return the photos of a run, in random order, so that a run that was stopped is of fewer random ones."""
        fitting = [photo for photo, is_small in zip(self.photos, self.is_small) if is_small or not run.is_small]
        order = np.random.default_rng(0).permutation(len(fitting))[: run.photos]
        return [fitting[at] for at in order]


def _kind(method: str) -> tuple[str, ...]:
    return SLOW if METHODS[method].slow else QUICK


def measure(part: Part, name: str, keep: Path, report: Progress) -> Iterator[PhotoMeasures]:
    """Yield the rows of one run, and keep them in a folder; none where the archive serves no such method."""
    run = RUNS[name]
    with open_archive(part.archive) as pipeline:
        served, usual = pipeline.settings.methods, pipeline.settings.defaults.method
        methods = [method for method in served if method in run.methods or run.methods == _kind(method)]
        if methods:
            variants = tuple(Variant(method) for method in dict.fromkeys((usual, *methods)))
            plan = EvaluationPlan(variants, run.groups, steps=STEPS, attack_class=part.attack_class)
            yield from evaluate(pipeline, part.chosen(run), plan, report, _file(keep, part.archive.stem, name))


def read_rows(keep: Path, archive: str, name: str) -> list[PhotoMeasures]:
    """Return the rows that are kept of one run; none where it was not begun."""
    file = _file(keep, archive, name)
    blocks = [block for _, block in read_json_lines(file, lambda block: block, "this study")] if file.exists() else []
    return [PhotoMeasures(**row) for block in blocks[1:] for row in block]


def _file(keep: Path, archive: str, name: str) -> Path:
    return keep / f"{archive}.{name}.jsonl"
