"""What becomes of maps, answers and signals where a photo is attacked, from served answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camserve.build.baseline.measure import Collector
from camserve.build.baseline.reference import reference_of
from camserve.build.json_lines import append_json_lines, read_json_lines
from camserve.build.mar.unpack import open_archive
from camserve.evaluate.asking import Answer, Asker
from camserve.evaluate.attack import attack, picture_of
from camserve.evaluate.frames import box_mask, enlarge
from camserve.evaluate.measures import energy_inside, pointing
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import PhotoUnanswered, Variant
from camserve.monitor.signals import NAMES
from camserve.values import Progress
from map_measures import AIRLINER, Part, Run

RUN = Run(frozenset(), 16, ("gradcam", "layercam", "eigengradcam"))


@dataclass(frozen=True)
class Picture:
    """What is served of one picture."""

    best: int
    confidence: float
    codes: list[str]  # of the whole answer, and of the predicted class's map
    places: Mapping[str, list[float]]  # method -> pointing and energy of the label's map
    signals: list[float | None]  # by the names of the monitor


@dataclass(frozen=True)
class Attacked:
    """One photo before and after."""

    photo: str
    label: int
    before: Picture
    after: Picture


def measure_attacks(part: Part, keep: Path, report: Progress) -> Iterator[Attacked]:
    """Yield the photos of small objects, each attacked until it is taken for an airliner; rows are kept."""
    file = _file(keep, part.archive.stem)
    kept = {row.photo: row for row in read_attacks(keep, part.archive.stem)}
    with open_archive(part.archive) as pipeline, append_json_lines(file) as append:
        methods = [method for method in RUN.methods if method in pipeline.settings.methods]
        asker = Asker(pipeline, [Variant(method) for method in methods])
        for photo in part.chosen(RUN):
            if photo.path.name not in kept and photo.label != AIRLINER:
                try:
                    kept[photo.path.name] = row = _measure(asker, methods, photo)
                except PhotoUnanswered as error:
                    report(f"{photo.path.name}: {error}")
                    continue
                append(asdict(row))
            if photo.path.name in kept:
                yield kept[photo.path.name]


def read_attacks(keep: Path, archive: str) -> list[Attacked]:
    """Return the photos that are kept; none where the study was not begun."""
    file = _file(keep, archive)
    return [row for _, row in read_json_lines(file, _read, "this study")] if file.exists() else []


def _file(keep: Path, archive: str) -> Path:
    return keep / f"{archive}.attacked.jsonl"


def _read(block: Any) -> Attacked:
    return Attacked(block["photo"], block["label"], Picture(**block["before"]), Picture(**block["after"]))


def _measure(asker: Asker, methods: Sequence[str], photo: LabelledPhoto) -> Attacked:
    content = photo.path.read_bytes()
    (answer, *_) = asker.ask(content, [photo.label])
    size = asker.pipeline.settings.input.size
    mask = box_mask(photo.boxes, answer["input"]["region"], size)
    # The same pixels in a file of the same size, so that nothing but the attack tells one from the other.
    pictures = picture_of(asker, asker.read(content)), attack(asker, content, AIRLINER)
    before, after = (_look(asker, methods, picture, photo.label, mask) for picture in pictures)
    return Attacked(photo.path.name, photo.label, before, after)


def _look(asker: Asker, methods: Sequence[str], picture: bytes, label: int, mask: np.ndarray) -> Picture:
    best = asker.predict(asker.normalise([asker.read(picture)])).best
    collector = Collector()
    asker.pipeline.monitor.report_to(collector)
    answers = asker.ask(picture, [best, label])
    asker.pipeline.monitor.report_to()
    row = reference_of(collector.batches).values[0]
    signals = [float(value) if np.isfinite(value) else None for value in row]
    codes = [warning["code"] for warning in answers[0]["warnings"] if warning.get("explanation", 0) == 0]
    places = {method: _place(answer, mask) for method, answer in zip(methods, answers)}
    confidence = answers[0]["predictions"][0]["probability"]
    return Picture(best, confidence, codes, places, signals)


def _place(answer: Answer, mask: np.ndarray) -> list[float]:
    grid = answer["explanations"][-1]["grid"]  # the label comes last, and is asked for once where it is predicted
    values = enlarge(np.array(grid, np.float32), (mask.shape[0], mask.shape[1]))
    return [pointing(values, mask), energy_inside(values, mask)]


def separations(rows: Sequence[Attacked]) -> dict[str, float]:
    """Return by signal the area under the curve by which it tells attacked photos from others: .5 tells nothing."""
    found = {}
    for at, name in enumerate(NAMES):
        pairs = [(row.before.signals[at], row.after.signals[at]) for row in rows]
        before, after = (np.array([pair[side] for pair in pairs if None not in pair], float) for side in (0, 1))
        if len(before):
            area = float(np.mean((after[:, None] > before) + 0.5 * (after[:, None] == before)))
            found[name] = max(area, 1 - area)
    return found
