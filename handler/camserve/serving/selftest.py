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
from camserve.settings import Settings
from camserve.values import RawRequest

logger = logging.getLogger(__name__)

SELFTEST_FILE = "selftest.json"
TOLERANCE = 1e-3  # of scores, relative to the largest, and of grids
LOOSE_TOLERANCE = 2e-2  # where the device computes in another precision than the builder's

CAUSES = {
    "eager": "weights, input or layers were changed (selftest: warn goes on all the same)",
    "openvino": "OpenVINO computes otherwise on this machine",
}

SampleAnswer = dict[str, Any]  # the "predictions" and "explanations" of an answer
Options = dict[str, str]


def usual_options(settings: Settings) -> Options:
    """Return the default options on which predictions and maps depend: an operator may change them later."""
    names = ("target", "method", "evidence", "top_k", *(("context",) if settings.score else ()))
    return {name: getattr(settings.defaults, name) for name in names}


def record_answers(pipeline: Pipeline, folder: Path, options: Options) -> dict[str, SampleAnswer]:
    """Return the answer to every sample photo. ConfigError: one of them cannot be predicted and explained."""
    answers = {}
    for sample in pipeline.settings.samples:
        row = RawRequest((folder / sample).read_bytes(), {**options, "explain": True})
        answer = json.loads(pipeline.answer([row])[0].body)
        if "error" in answer:
            raise ConfigError(f"{sample}: {answer['error']['message']}")
        answers[sample] = {name: answer[name] for name in ("predictions", "explanations")}
    return answers


def write_answers(
    answers: dict[str, SampleAnswer], options: Options, folder: Path, eager: dict[str, SampleAnswer] | None = None
) -> None:
    """Write the answers that an archive's photos must get with these options.

    ``eager`` are those of mode eager where that is not the archive's: a server without OpenVINO gives these.
    """
    block = {"options": options, "answers": answers, **({} if eager is None else {"eager": eager})}
    (folder / SELFTEST_FILE).write_text(json.dumps(block, indent=1), encoding="utf-8")


def self_test(pipeline: Pipeline, folder: Path, device: torch.device) -> bool | None:
    """Return whether the sample photos get the answers that the archive holds for them; None: ``selftest`` is off.

    Nothing to compare is no pass. ConfigError: they do not, and the setting ``selftest`` is not ``warn``.
    """
    if pipeline.settings.selftest == "off":
        return None
    runtime = pipeline.settings.runtime
    as_recorded = runtime.mode == "eager" or not pipeline.slowed  # not where OpenVINO computes bf16 in fp32
    exact = device.type == "cpu" and runtime.precision == "fp32" and as_recorded
    tolerance = TOLERANCE if exact else LOOSE_TOLERANCE
    options, expected = _read_expected(folder, runtime.mode)
    faults = _find_faults(expected, record_answers(pipeline, folder, options), tolerance)
    if faults and pipeline.settings.selftest != "warn":
        raise ConfigError(f"{faults[0]}; {CAUSES[pipeline.settings.runtime.mode]}")
    for fault in faults:
        logger.warning("camserve: %s", fault)
    return not faults


def _read_expected(folder: Path, mode: str) -> tuple[Options, dict[str, SampleAnswer]]:
    """Return the options and the answers in ``mode`` that the archive holds for its samples; none: it lost them."""
    try:
        block = json.loads((folder / SELFTEST_FILE).read_text(encoding="utf-8"))
        return dict(block["options"]), dict(block.get(mode, block["answers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}


def _find_faults(expected: dict[str, SampleAnswer], found: dict[str, SampleAnswer], tolerance: float) -> list[str]:
    missing = [f"{SELFTEST_FILE} holds no answer to {sample}" for sample in found if sample not in expected]
    faults = (_find_fault(sample, expected[sample], found.get(sample), tolerance) for sample in expected)
    return missing + [fault for fault in faults if fault]


def _find_fault(sample: str, expected: SampleAnswer, found: SampleAnswer | None, tolerance: float) -> str | None:
    if found is None:
        return f"{sample} is not among the samples any more"
    expected_scores, found_scores = _scores(expected), _scores(found)
    if not expected_scores:
        return f"{SELFTEST_FILE} holds no predictions for {sample}"
    largest = max(abs(score) for score in expected_scores.values())
    for index, score in expected_scores.items():
        if not abs(found_scores.get(index, np.inf) - score) <= tolerance * largest:  # NaN is no pass either
            now = found_scores.get(index, "below the best")
            return f"{sample}: class {index} scores {now}, not {score} as when it was built"
    names = _labels(found)
    for index, name in _labels(expected).items():
        if names.get(index, name) != name:
            return f"{sample}: class {index} is called {names[index]}, not {name}"
    for before, now in zip(expected["explanations"], found["explanations"]):
        if before["status"] != now["status"] or not _close(before["grid"], now["grid"], tolerance):
            return f"{sample}: its {before['method']} map is not the one it had when the archive was built"
    return None


def _scores(answer: SampleAnswer) -> dict[int, float]:
    return {prediction["index"]: prediction["score"] for prediction in answer["predictions"]}


def _labels(answer: SampleAnswer) -> dict[int, str]:
    return {prediction["index"]: prediction["label"] for prediction in answer["predictions"]}


def _close(one: list[list[float]], other: list[list[float]], tolerance: float) -> bool:
    first, second = np.array(one), np.array(other)
    return first.shape == second.shape and bool(np.abs(first - second).max() <= tolerance)
