"""Maps of classes that are in photos and of classes that are not, from served answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camserve.build.trial.measure_methods import FLAGGED, PREDICTED
from camserve.drift.records import wilson
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest
from labelled_photos import Photos

ABSENT = 4  # classes a photo
TOP = 5
BATCH = 8  # photos
GROUPS = ("right", "absent", "missed")

Explanation = dict[str, Any]  # of an answer, with "mass", "positive" and "weak" beside what it has


@dataclass(frozen=True)
class Strengths:
    """The maps of P photos, by what their class is to the photo."""

    accuracy: float
    right: Sequence[Explanation]  # predicted, and the label
    absent: Sequence[Explanation]  # neither the label nor among the best five
    missed: Sequence[Explanation]  # the label, and not predicted

    def warned(self, group: str) -> str:
        """Return the share of a group that has the warning, with its interval, in per cent."""
        weak = [explanation["weak"] for explanation in getattr(self, group)]
        low, high = wilson(sum(weak), len(weak))
        return f"{np.mean(weak):.1%} [{low:.1%} {high:.1%}]"

    def separation(self, what: str) -> float:
        """Return the area under the curve of a number that shall be larger for right classes than for absent ones."""
        right = np.array([explanation[what] for explanation in self.right])
        absent = np.sort([explanation[what] for explanation in self.absent])
        below = np.searchsorted(absent, right, "left") + np.searchsorted(absent, right, "right")
        return float(below.mean() / 2 / len(absent))

    @property
    def limit_of_all(self) -> float:
        """The limit that these absent classes give."""
        strong = float(np.quantile([explanation["strength"] for explanation in self.absent], FLAGGED))
        return (strong + PREDICTED) / 2


def measure_strengths(pipeline: Pipeline, photos: Photos) -> Strengths:
    """Ask for the predicted class, the label and absent classes of every photo."""
    random = np.random.default_rng(0)
    count = len(pipeline.heads[0].labels)
    groups: dict[str, list[Explanation]] = {"right": [], "absent": [], "missed": []}
    for start in range(0, len(photos.paths), BATCH):
        labels = photos.classes[start : start + BATCH].tolist()
        pictures = [path.read_bytes() for path in photos.paths[start : start + BATCH]]
        drawn = [random.integers(count, size=ABSENT).tolist() for _ in pictures]
        targets = [",".join(f"index:{index}" for index in (label, *others)) for label, others in zip(labels, drawn)]
        predicted = _ask(pipeline, pictures, ["predicted"] * len(pictures))
        asked = _ask(pipeline, pictures, targets)
        for label, first, second in zip(labels, predicted, asked):
            best = [prediction["index"] for prediction in first["predictions"][:TOP]]
            (own, *others) = second["explanations"]
            groups["right"] += first["explanations"] if best[0] == label else []
            groups["missed"] += [] if best[0] == label else [own]
            groups["absent"] += [other for other in others if other["target"]["index"] not in (label, *best)]
    return Strengths(len(groups["right"]) / len(photos.paths), **groups)


def _ask(pipeline: Pipeline, pictures: Sequence[bytes], targets: Sequence[str]) -> list[dict[str, Any]]:
    rows = [
        RawRequest(picture, {"explain": True, "method": "gradcam", "target": target, "top_k": str(TOP)})
        for picture, target in zip(pictures, targets)
    ]
    answers: list[dict[str, Any]] = [json.loads(response.body) for response in pipeline.answer(rows)]
    for answer in answers:
        codes = {(warning.get("explanation"), warning["code"]) for warning in answer["warnings"]}
        for number, explanation in enumerate(answer["explanations"]):
            explanation["mass"] = float(np.sum(explanation.pop("grid"))) * explanation["scale"]
            explanation["positive"] = explanation["balance"]["positive"]
            # A blank map shows nothing, and says so.
            explanation["weak"] = bool(codes & {(number, "WEAK_EVIDENCE"), (number, "NO_POSITIVE_EVIDENCE")})
    return answers


def write_strengths(found: Strengths, path: Path) -> None:
    """Keep what was measured."""
    groups = {group: [_numbers(one) for one in getattr(found, group)] for group in GROUPS}
    path.write_text(json.dumps({"accuracy": found.accuracy, **groups}), encoding="utf-8")


def _numbers(explanation: Explanation) -> Explanation:
    return {name: explanation[name] for name in ("strength", "mass", "scale", "positive", "weak")}


def read_strengths(path: Path) -> Strengths:
    """Return what was kept."""
    return Strengths(**json.loads(path.read_text(encoding="utf-8")))
