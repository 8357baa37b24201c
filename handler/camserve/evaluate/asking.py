"""What an archive says of pictures and of pixels: answers as they are served, and passes of its network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camserve.answer.predictions import RowScores, read_scores
from camserve.attribution.capture import Capture
from camserve.attribution.methods import METHODS
from camserve.errors import CamserveError
from camserve.evaluate.plan import PhotoUnanswered, Variant
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.network.output import device_of_network
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest

BATCH = 16  # changed pictures of one forward pass

Answer = dict[str, Any]


class Asker:
    """Asks one archive."""

    def __init__(self, pipeline: Pipeline, variants: Sequence[Variant]) -> None:
        """Stand ready to ask for the maps of ``variants``; nothing is run."""
        self.pipeline, self._variants = pipeline, variants
        self.device = device_of_network(pipeline.network)

    def read(self, content: bytes) -> np.ndarray:
        """Return the pixels (H, W, C) that the network is shown of a picture. PhotoUnanswered: it cannot be read."""
        settings = self.pipeline.settings
        try:
            return read_pixels(content, settings.input, settings.limits, self.pipeline.transform)
        except CamserveError as error:
            raise PhotoUnanswered(str(error)) from None

    def normalise(self, rows: Sequence[np.ndarray]) -> Tensor:
        """Return such pixels as the network's input (N, C, H, W)."""
        return normalise(rows, self.pipeline.settings.input, self.device).contiguous()

    def predict(self, pixels: Tensor) -> RowScores:
        """Return what the network says of one picture (1, C, H, W)."""
        with torch.no_grad():
            return read_scores(self.run(pixels), self.pipeline.heads)[0].row(0)

    def probabilities(self, target: int, pixels: Tensor) -> np.ndarray:
        """Return the probabilities (N,) of a class, from pixels (N, C, H, W)."""
        found = []
        for start in range(0, len(pixels), BATCH):
            with torch.no_grad():
                head = read_scores(self.run(pixels[start : start + BATCH]), self.pipeline.heads)[0]
            assert head.probabilities is not None  # quantities are refused
            found.append(head.probabilities[:, target])
        return np.concatenate(found).astype(float)

    def run(self, pixels: Tensor) -> Tensor:
        """Return the scores (N, C) float32 of pixels (N, C, H, W), with a graph where these want one."""
        network, settings = self.pipeline.network, self.pipeline.settings
        dtype = next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), torch.float32)
        contexts = () if settings.score is None else ([settings.defaults.context] * len(pixels),)
        with Capture(network, ()):
            scores: Tensor = network(pixels.to(dtype), *contexts)
        return scores.float()

    def ask(self, content: bytes, classes: Sequence[int]) -> list[Answer]:
        """Return the answer of each variant about the classes. PhotoUnanswered: one is refused, or has no map."""
        target = ",".join(f"index:{index}" for index in classes)
        groups = self._group(len(classes))
        rows = [
            RawRequest(content, {**group[0].fields, "method": ",".join(one.method for one in group), "target": target})
            for group in groups
        ]
        answers: list[Answer] = [json.loads(response.body) for response in self.pipeline.answer(rows)]
        found = {}
        for group, answer in zip(groups, answers):
            if "error" in answer:
                raise PhotoUnanswered(answer["error"]["message"])
            found.update({variant: _answer_of(answer, variant) for variant in group})
        for answer in found.values():
            if answer["explanations"][0]["grid"] is None:
                raise PhotoUnanswered(f"no map: {answer['explanations'][0]['status']}")
        return [found[variant] for variant in self._variants]

    def _group(self, classes: int) -> list[list[Variant]]:
        """Return the variants that one request can ask for: of one layer, since they share its forward pass."""
        limits = self.pipeline.settings.limits
        most = max(1, min(limits.max_methods, limits.max_maps // classes))
        groups: list[list[Variant]] = []
        for layer in dict.fromkeys(variant.layer for variant in self._variants):
            here = [variant for variant in self._variants if variant.layer == layer]
            quick = [variant for variant in here if not METHODS[variant.method].slow]
            groups += [quick[start : start + most] for start in range(0, len(quick), most)]
            groups += [[variant] for variant in here if variant not in quick]
        return groups


def _answer_of(answer: Answer, variant: Variant) -> Answer:
    """Return the part of an answer that is about one method, with its warnings."""
    explanations = answer["explanations"]
    numbers = [number for number, one in enumerate(explanations) if one["method"] == variant.method]
    places = {number: place for place, number in enumerate(numbers)}
    warnings = [
        {**warning, "explanation": places[warning["explanation"]]} if "explanation" in warning else warning
        for warning in answer["warnings"]
        if warning.get("explanation", numbers[0]) in places
    ]
    return {**answer, "explanations": [explanations[number] for number in numbers], "warnings": warnings}


def grid_of(answer: Answer) -> np.ndarray:
    """Return the first map of an answer."""
    return np.array(answer["explanations"][0]["grid"], np.float32)


def is_signed(answer: Answer) -> bool:
    """Return whether the maps of an answer show evidence for and against, whatever was asked for."""
    return METHODS[answer["explanations"][0]["method"]].evidence == "signed"
