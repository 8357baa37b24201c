"""All measures of one photo, from served answers and from passes of the network on changed pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from camserve.answer.predictions import RowScores, read_scores
from camserve.attribution.capture import Capture
from camserve.build.trial.rank_correlation import rank_correlation
from camserve.errors import CamserveError
from camserve.evaluate.frames import FLOORS, box_mask, enlarge, seed_of
from camserve.evaluate.measures import (
    GROUPS,
    complexity,
    deletion,
    drop_and_gain,
    energy,
    insertion,
    overlaps,
    pointing,
)
from camserve.evaluate.photos import LabelledPhoto
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.network.output import device_of_network
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest
from camserve.warning_codes import WEAK_EVIDENCE, warn_blank

BATCH = 16  # changed pictures of one forward pass
ABSENT = 3  # classes a photo
PLAUSIBLE = 5  # best classes, none of which is absent
QUALITY, NOISE = 50, 10.0  # of JPEG; the noise's deviation, of 255
TINY_SIDE = 8  # cells of a floor where the layer has no grid of its own
WEAK = {WEAK_EVIDENCE.code, warn_blank("for").code}
PLAIN = {"explain": "true", "evidence": "for", "format": "grid", "compat": "none", "details": "none"}

Answer = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One way to ask for a map."""

    method: str
    layer: str = ""  # "": the archive's default

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.method} at {self.layer}" if self.layer else self.method

    @property
    def fields(self) -> dict[str, str]:
        """The options of a request."""
        return {**PLAIN, "method": self.method, **({"layer": self.layer} if self.layer else {})}


@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured."""

    variants: tuple[Variant, ...]  # the first is what others are compared with
    groups: frozenset[str] = frozenset(GROUPS)
    target: str = "label"  # or predicted: the class that is explained
    steps: int = 16  # of deletion and insertion
    seed: int = 0


@dataclass(frozen=True)
class PhotoMeasures:
    """The measures of one photo under one variant or floor."""

    photo: str
    variant: str
    label: int
    predicted: int
    values: dict[str, float]
    iou: dict[str, float]  # of the first box, by threshold


class PhotoUnanswered(CamserveError):
    """The archive refused a photo, or gave no map."""


class Evaluator:
    """Measures photos under one archive."""

    def __init__(self, pipeline: Pipeline, plan: EvaluationPlan) -> None:
        """Stand ready; nothing is run."""
        self._pipeline, self._plan = pipeline, plan
        self._device = device_of_network(pipeline.network)
        self._of_tokens = pipeline.settings.map_source().of_tokens
        self._size = (pipeline.settings.input.shape[1], pipeline.settings.input.shape[2])

    def rows(self, photo: LabelledPhoto, name: str) -> list[PhotoMeasures]:
        """Return one row for each variant and floor. PhotoUnanswered: the photo cannot be read, or a map failed."""
        content, seed = photo.path.read_bytes(), seed_of(name, self._plan.seed)
        pixels = self._pixels(content)
        row = self._predict(pixels)
        target = photo.label if self._plan.target == "label" else row.best
        asked = [target, *_absent(row, photo.label, seed, self._places())]
        answers = self._ask(content, asked)
        changed = self._ask_changed(content, target, seed) if "stable" in self._plan.groups else []
        judge = partial(self._judge, photo, pixels, target, answers[0], seed)
        found = []
        for number, (variant, answer) in enumerate(zip(self._plan.variants, answers)):
            grid = _grid(answer)
            values, iou = judge(grid)
            for kind, others in changed:
                values[kind] = rank_correlation(grid, _grid(others[number])) or 0.0
            if "absent" in self._plan.groups and len(asked) > 1:
                values["absent"] = _warned(answer)
            found.append(PhotoMeasures(name, variant.name, photo.label, row.best, values, iou))
        size = _grid(answers[0]).shape if answers else (TINY_SIDE, TINY_SIDE)
        for floor, draw in FLOORS.items():
            values, iou = judge(draw(pixels, (size[0], size[1]), seed).astype(np.float32))
            found.append(PhotoMeasures(name, floor, photo.label, row.best, values, iou))
        return found

    def _places(self) -> int:
        """Return for how many absent classes there is room beside the target."""
        limits = self._pipeline.settings.limits
        return min(ABSENT, limits.max_targets - 1, limits.max_maps - 1)

    def _judge(
        self, photo: LabelledPhoto, pixels: Tensor, target: int, answer: Answer, seed: int, grid: np.ndarray
    ) -> tuple[dict[str, float], dict[str, float]]:
        groups, region = self._plan.groups, answer["input"]["region"]
        shown = enlarge(grid, self._size)
        values: dict[str, float] = {}
        iou: dict[str, float] = {}
        if "place" in groups and photo.boxes and target == photo.label:
            mask = box_mask(photo.boxes, region, self._size)
            if mask.any():
                values |= {"pointing": pointing(shown, mask), "energy": energy(shown, mask)}
                size = (answer["input"]["width"], answer["input"]["height"])
                iou = overlaps(grid, region, size, photo.boxes, self._of_tokens)
        if "change" in groups:
            scores, steps = partial(self._scores, target), self._plan.steps
            values["deletion"] = deletion(shown, pixels, scores, steps, seed)
            values["insertion"] = insertion(shown, pixels, scores, steps, seed)
            values["drop"], values["gain"] = drop_and_gain(shown, pixels, scores)
        if "shape" in groups:
            values["complexity"] = complexity(grid)
        return values, iou

    def _pixels(self, content: bytes) -> Tensor:
        settings = self._pipeline.settings
        try:
            read = read_pixels(content, settings.input, settings.limits, self._pipeline.transform)
        except CamserveError as error:
            raise PhotoUnanswered(str(error)) from None
        return normalise([read], settings.input, self._device).contiguous()

    def _predict(self, pixels: Tensor) -> RowScores:
        return read_scores(self._run(pixels), self._pipeline.heads)[0].row(0)

    def _scores(self, target: int, pixels: Tensor) -> np.ndarray:
        """Return the probabilities (N,) of a class, from so many pictures at once."""
        found = []
        for start in range(0, len(pixels), BATCH):
            head = read_scores(self._run(pixels[start : start + BATCH]), self._pipeline.heads)[0]
            assert head.probabilities is not None  # quantities are refused
            found.append(head.probabilities[:, target])
        return np.concatenate(found).astype(float)

    def _run(self, pixels: Tensor) -> Tensor:
        network, settings = self._pipeline.network, self._pipeline.settings
        dtype = next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), torch.float32)
        contexts = () if settings.score is None else ([settings.defaults.context] * len(pixels),)
        with Capture(network, ()), torch.no_grad():
            scores: Tensor = network(pixels.to(dtype), *contexts)
        return scores.float()

    def _ask(self, content: bytes, classes: Sequence[int]) -> list[Answer]:
        """Return the answer of each variant about the classes."""
        target = ",".join(f"index:{index}" for index in classes)
        rows = [RawRequest(content, {**variant.fields, "target": target}) for variant in self._plan.variants]
        answers: list[Answer] = [json.loads(response.body) for response in self._pipeline.answer(rows)]
        for answer in answers:
            if "error" in answer:
                raise PhotoUnanswered(answer["error"]["message"])
            if answer["explanations"][0]["grid"] is None:
                raise PhotoUnanswered(f"no map: {answer['explanations'][0]['status']}")
        return answers

    def _ask_changed(self, content: bytes, target: int, seed: int) -> list[tuple[str, list[Answer]]]:
        changes: dict[str, Callable[[Image.Image], bytes]] = {"jpeg": _as_jpeg, "noise": partial(_with_noise, seed)}
        try:
            with Image.open(BytesIO(content)) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError) as error:
            raise PhotoUnanswered(str(error)) from None
        return [(kind, self._ask(change(image), [target])) for kind, change in changes.items()]


def _absent(row: RowScores, label: int, seed: int, count: int) -> list[int]:
    """Return classes that are neither the label nor among the best, drawn at random."""
    others = [int(index) for index in row.order[PLAUSIBLE:] if index != label]
    drawn = np.random.default_rng(seed).permutation(others)[:count]
    return [int(index) for index in drawn]


def _grid(answer: Answer) -> np.ndarray:
    return np.array(answer["explanations"][0]["grid"], np.float32)


def _warned(answer: Answer) -> float:
    """Return the share of the absent classes' maps that say how little they show."""
    weak = {warning.get("explanation") for warning in answer["warnings"] if warning["code"] in WEAK}
    count = len(answer["explanations"]) - 1
    return sum(number in weak for number in range(1, count + 1)) / count


def _as_jpeg(image: Image.Image) -> bytes:
    return _encode(image, "JPEG", quality=QUALITY)


def _with_noise(seed: int, image: Image.Image) -> bytes:
    values = np.asarray(image, np.float32)
    noisy = values + np.random.default_rng(seed).normal(0, NOISE, values.shape)
    return _encode(Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)), "PNG", compress_level=1)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
