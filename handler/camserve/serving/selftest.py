"""The golden self-test: an archive's own photos must still get the answers they got when it was built.

A wrong normalisation costs points of accuracy that no monitor of drift can see, since everything
drifts together. It is seen here, before the first request.
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

GOLDEN = "golden.json"
TOLERANCE = 1e-3  # of scores, relative to the largest, and of grids
LOOSE_TOLERANCE = 2e-2  # where the device computes in another precision than the builder's

Answers = dict[str, dict[str, Any]]


def record(pipeline: Pipeline, folder: Path) -> Answers:
    """Answer every sample photo. ConfigError: one of them cannot be predicted and explained."""
    answers = {}
    for sample in pipeline.settings.samples:
        row = RawRequest((folder / sample).read_bytes(), {"explain": True})
        told = json.loads(pipeline.answer([row])[0].body)
        if "error" in told:
            raise ConfigError(f"{sample}: {told['error']['message']}")
        answers[sample] = {name: told[name] for name in ("predictions", "explanations")}
    return answers


def self_test(pipeline: Pipeline, folder: Path, device: torch.device) -> bool:
    """Whether the sample photos get their golden answers, where the archive has any.

    ConfigError: they do not, and the setting ``selftest`` is not ``warn``.
    """
    path = folder / GOLDEN
    if pipeline.settings.selftest == "off" or not path.is_file():
        return True
    exact = device.type == "cpu" and pipeline.settings.runtime.precision == "fp32"
    tolerance = TOLERANCE if exact else LOOSE_TOLERANCE
    golden: Answers = json.loads(path.read_text(encoding="utf-8"))
    now = record(pipeline, folder)
    faults = [fault for sample in golden if (fault := _fault(sample, golden[sample], now.get(sample), tolerance))]
    if faults and pipeline.settings.selftest != "warn":
        raise ConfigError(f"{faults[0]}; weights, input or layers were changed (selftest: warn goes on all the same)")
    for fault in faults:
        logger.warning("camserve: %s", fault)
    return not faults


def _fault(sample: str, golden: dict[str, Any], now: dict[str, Any] | None, tolerance: float) -> str | None:
    if now is None:
        return f"{sample} is not among the samples any more"
    expected = {each["index"]: each["score"] for each in golden["predictions"]}
    found = {each["index"]: each["score"] for each in now["predictions"]}
    largest = max(abs(score) for score in expected.values())
    for index, score in expected.items():
        if abs(found.get(index, np.inf) - score) > tolerance * largest:
            return (
                f"{sample}: class {index} scores {found.get(index, 'below the best')}, not {score} as when it was built"
            )
    for was, is_now in zip(golden["explanations"], now["explanations"]):
        if was["status"] != is_now["status"] or not _close(was["grid"], is_now["grid"], tolerance):
            return f"{sample}: its {was['method']} map is not the one it had when the archive was built"
    return None


def _close(one: list[list[float]], other: list[list[float]], tolerance: float) -> bool:
    was, is_now = np.array(one), np.array(other)
    return was.shape == is_now.shape and bool(np.abs(was - is_now).max() <= tolerance)
