"""The self-test: at load, an archive's own photos must still get the answers that they got at build.

A wrong normalisation costs accuracy that no drift monitor can see, since all traffic is wrong in the same way. The
self-test sees it before the first request.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camserve.errors import ConfigError
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest

logger = logging.getLogger(__name__)

SELFTEST_FILE = "selftest.json"
TOLERANCE = 1e-3  # of scores, relative to the largest, and of grids
LOOSE_TOLERANCE = 2e-2  # where the device computes in another precision than the builder's

SampleAnswer = dict[str, Any]  # the "predictions" and "explanations" of an answer


def record_answers(pipeline: Pipeline, folder: Path) -> dict[str, SampleAnswer]:
    """Return the answer to every sample photo. ConfigError: one of them cannot be predicted and explained."""
    answers = {}
    for sample in pipeline.settings.samples:
        row = RawRequest((folder / sample).read_bytes(), {"explain": True})
        answer = json.loads(pipeline.answer([row])[0].body)
        if "error" in answer:
            raise ConfigError(f"{sample}: {answer['error']['message']}")
        answers[sample] = {name: answer[name] for name in ("predictions", "explanations")}
    return answers


def self_test(pipeline: Pipeline, folder: Path, device: torch.device) -> bool:
    """Return whether the sample photos get the answers that the archive holds for them, if it holds any.

    ConfigError: they do not, and the setting ``selftest`` is not ``warn``.
    """
    path = folder / SELFTEST_FILE
    if pipeline.settings.selftest == "off" or not path.is_file():
        return True
    exact = device.type == "cpu" and pipeline.settings.runtime.precision == "fp32"
    tolerance = TOLERANCE if exact else LOOSE_TOLERANCE
    expected: dict[str, SampleAnswer] = json.loads(path.read_text(encoding="utf-8"))
    found = record_answers(pipeline, folder)
    faults = [
        fault for sample in expected if (fault := _find_fault(sample, expected[sample], found.get(sample), tolerance))
    ]
    if faults and pipeline.settings.selftest != "warn":
        raise ConfigError(f"{faults[0]}; weights, input or layers were changed (selftest: warn goes on all the same)")
    for fault in faults:
        logger.warning("camserve: %s", fault)
    return not faults


def _find_fault(sample: str, expected: SampleAnswer, found: SampleAnswer | None, tolerance: float) -> str | None:
    if found is None:
        return f"{sample} is not among the samples any more"
    expected_scores, found_scores = _scores(expected), _scores(found)
    largest = max(abs(score) for score in expected_scores.values())
    for index, score in expected_scores.items():
        if abs(found_scores.get(index, np.inf) - score) > tolerance * largest:
            now = found_scores.get(index, "below the best")
            return f"{sample}: class {index} scores {now}, not {score} as when it was built"
    for before, now in zip(expected["explanations"], found["explanations"]):
        if before["status"] != now["status"] or not _close(before["grid"], now["grid"], tolerance):
            return f"{sample}: its {before['method']} map is not the one it had when the archive was built"
    return None


def _scores(answer: SampleAnswer) -> dict[int, float]:
    return {prediction["index"]: prediction["score"] for prediction in answer["predictions"]}


def _close(one: list[list[float]], other: list[list[float]], tolerance: float) -> bool:
    first, second = np.array(one), np.array(other)
    return first.shape == second.shape and bool(np.abs(first - second).max() <= tolerance)
