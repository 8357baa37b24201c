"""Measuring many photos, one after the other, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from camserve.build.json_lines import append_json_lines, read_json_lines, rewrite_lines, write_line
from camserve.build.progress_line import ProgressLine
from camserve.errors import ConfigError
from camserve.evaluate.one_photo import Evaluator
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures, PhotoUnanswered
from camserve.serving.pipeline import Pipeline
from camserve.values import Progress

COMMAND = "camserve evaluate"
PLACELESS = "nothing would be measured: measures of place need boxes or masks"
TASKS = "evaluate needs classes: the archive's task is regression"


def evaluate(
    pipeline: Pipeline,
    photos: Sequence[LabelledPhoto],
    plan: EvaluationPlan,
    report: Progress,
    kept: Path | None = None,
) -> Iterator[PhotoMeasures]:
    """Yield the rows of all photos; those that are in the file ``kept`` are not measured again, others are added.

    ``report`` gets a line for each photo that could not be measured; how far it is stands on standard error.
    ConfigError: the archive has no classes, the plan is of places and no photo has any, or ``kept`` is of another
    archive or plan.
    """
    if pipeline.settings.outputs[0].is_quantity:
        raise ConfigError(TASKS)
    if plan.groups == {"place"} and not any(photo.boxes or photo.masks for photo in photos):
        raise ConfigError(PLACELESS)
    header = {"weights": pipeline.model.weights, "name": pipeline.model.name, "plan": describe_plan(plan)}
    evaluator = Evaluator(pipeline, plan)
    with ExitStack() as stack:
        done = {} if kept is None else _reopen(kept, header)
        append = None if kept is None else stack.enter_context(append_json_lines(kept))
        progress = ProgressLine(sum(name_of(photo) not in done for photo in photos))
        stack.callback(progress.clear)
        for photo in photos:
            key = name_of(photo)
            if key in done:
                yield from done.pop(key)
                continue
            try:
                rows = evaluator.rows(photo, key)
            except (PhotoUnanswered, OSError) as error:
                progress.add(1, 1)
                progress.clear()
                report(f"{photo.path}: left out: {error}")
                continue
            progress.add(1, 0)
            if append is not None:
                append([dataclasses.asdict(row) for row in rows])
            yield from rows


def name_of(photo: LabelledPhoto) -> str:
    """Return what tells photos apart: the path, and the class of which a photo of several is one."""
    return f"{photo.path}#{photo.label}"


def hash_photos(photos: Sequence[LabelledPhoto]) -> str:
    """Return the start of the SHA-256 of all names, labels, boxes, masks and sizes."""
    digest = hashlib.sha256()
    for photo in photos:
        entry: list[Any] = [photo.path.name, photo.label, photo.boxes, photo.path.stat().st_size]
        entry += [mask.describe() for mask in photo.masks]
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:12]


def describe_plan(plan: EvaluationPlan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        **dataclasses.asdict(plan),
        "variants": [variant.name for variant in plan.variants],
        "groups": sorted(plan.groups),
    }


def _reopen(path: Path, header: dict[str, Any]) -> dict[str, list[PhotoMeasures]]:
    """Return the rows of a file by photo, less a last line that was cut off; a new file begins with the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = list(read_json_lines(path, lambda block: block, COMMAND)) if path.exists() else []
    if lines and lines[0][1] != header:
        raise ConfigError(f"{path} was made of another archive or with other options: name another file")
    found = [line for line, _ in lines] or [write_line(header)]
    if not path.exists() or path.stat().st_size != sum(map(len, found)):
        rewrite_lines(path, found)
    try:
        rows = [[PhotoMeasures(**row) for row in block] for _, block in lines[1:]]
        return {photo[0].photo: photo for photo in rows}
    except (TypeError, IndexError):
        raise ConfigError(f"{path} holds rows of another camserve: name another file") from None
