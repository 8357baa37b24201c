"""Measuring many photos, one after the other, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from camserve.errors import ConfigError
from camserve.evaluate.one_photo import Evaluator
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures, PhotoUnanswered
from camserve.serving.pipeline import Pipeline
from camserve.values import Progress

REPORTED = 20  # photos between two lines of progress
TASKS = "evaluate needs classes: the archive's task is regression"


def evaluate(
    pipeline: Pipeline,
    photos: Sequence[LabelledPhoto],
    plan: EvaluationPlan,
    report: Progress,
    kept: Path | None = None,
) -> Iterator[PhotoMeasures]:
    """Yield the rows of all photos; those that are in the file ``kept`` are not measured again, others are added.

    ``report`` gets a line every 20 photos, and one for each that could not be measured. ConfigError: the archive has
    no classes, or ``kept`` is of another archive or plan.
    """
    if pipeline.settings.outputs[0].is_quantity:
        raise ConfigError(TASKS)
    header = {"weights": pipeline.model.weights, "name": pipeline.model.name, "plan": describe_plan(plan)}
    done = {} if kept is None else _read(kept, header)
    evaluator = Evaluator(pipeline, plan)
    for number, photo in enumerate(photos):
        key = name_of(photo)
        if key not in done:
            try:
                rows = evaluator.rows(photo, key)
            except (PhotoUnanswered, OSError) as error:
                report(f"{photo.path}: left out: {error}")
                continue
            if kept is not None:
                _append(kept, rows)
        else:
            rows = done.pop(key)
        yield from rows
        if (number + 1) % REPORTED == 0:
            report(f"{number + 1} of {len(photos)} photos")


def name_of(photo: LabelledPhoto) -> str:
    """Return what tells photos apart: the path, and the class of which a photo of several is one."""
    return f"{photo.path}#{photo.label}"


def hash_photos(photos: Sequence[LabelledPhoto]) -> str:
    """Return the start of the SHA-256 of all names, labels, boxes and sizes."""
    digest = hashlib.sha256()
    for photo in photos:
        entry = [photo.path.name, photo.label, photo.boxes, photo.path.stat().st_size]
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:12]


def describe_plan(plan: EvaluationPlan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        **dataclasses.asdict(plan),
        "variants": [variant.name for variant in plan.variants],
        "groups": sorted(plan.groups),
    }


def _read(path: Path, header: dict[str, Any]) -> dict[str, list[PhotoMeasures]]:
    """Return the rows of a file by photo; a new file begins with the header."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header) + "\n", encoding="utf-8")
    found: dict[str, list[PhotoMeasures]] = {}
    try:
        first, *lines = path.read_text(encoding="utf-8").split("\n")
        if json.loads(first) != header:
            raise ConfigError(f"{path} was made of another archive or with other options: name another file")
        # A line without its end is of a photo that was not finished.
        for line in lines[:-1]:
            rows = [PhotoMeasures(**row) for row in json.loads(line)]
            found[rows[0].photo] = rows
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} holds no rows of camserve evaluate: {error}") from None
    if lines and lines[-1]:
        path.write_text("\n".join([first, *lines[:-1], ""]), encoding="utf-8")
    return found


def _append(path: Path, rows: Sequence[PhotoMeasures]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps([dataclasses.asdict(row) for row in rows]) + "\n")
