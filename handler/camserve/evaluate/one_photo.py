"""All measures of one photo, from served answers and from passes of the network on changed pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from camserve.answer.predictions import RowScores
from camserve.build.trial.rank_correlation import rank_correlation
from camserve.errors import ConfigError
from camserve.evaluate.asking import Answer, Asker, grid_of, is_signed
from camserve.evaluate.attack import attack, check_attackable
from camserve.evaluate.cascade import Cascade
from camserve.evaluate.changed import Frame, change_picture, compare_maps
from camserve.evaluate.frames import FLOORS, box_mask, enlarge, place_mask, seed_of
from camserve.evaluate.masks import read_mask
from camserve.evaluate.measures import (
    complexity,
    deletion,
    drop_and_gain,
    energy_inside,
    insertion,
    mask_overlaps,
    overlaps,
    pointing,
)
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures, PhotoUnanswered
from camserve.evaluate.road import road
from camserve.serving.pipeline import Pipeline
from camserve.values import Target
from camserve.warning_codes import WEAK_EVIDENCE, warn_blank

ABSENT = 3  # classes a photo
PLAUSIBLE = 5  # best classes, none of which is absent
TINY_SIDE = 8  # cells of a floor where the layer has no grid of its own
WEAK = {WEAK_EVIDENCE.code, warn_blank("for").code}

Values = dict[str, float]
Judge = Callable[[np.ndarray], tuple[Values, dict[str, Values]]]


class Evaluator:
    """Measures photos under one archive."""

    def __init__(self, pipeline: Pipeline, plan: EvaluationPlan) -> None:
        """Stand ready; nothing is run. ConfigError: what is planned cannot be measured of this archive."""
        self._pipeline, self._plan = pipeline, plan
        self._asker = Asker(pipeline, plan.variants)
        self._of_tokens = pipeline.settings.map_source().of_tokens
        self._size = (pipeline.settings.input.shape[1], pipeline.settings.input.shape[2])
        self._cascade = Cascade(pipeline) if "random" in plan.groups else None
        if "attack" in plan.groups:
            check_attackable(pipeline.settings.input)

    def rows(self, photo: LabelledPhoto, name: str) -> list[PhotoMeasures]:
        """Return one row for each variant and floor. PhotoUnanswered: the photo cannot be read, or a map failed."""
        content, seed = photo.path.read_bytes(), seed_of(name, self._plan.seed)
        pixels = self._asker.normalise([self._asker.read(content)])
        row = self._asker.predict(pixels)
        assert row.probabilities is not None  # quantities are refused
        confidence = round(float(row.probabilities[row.best]), 6)
        target = photo.label if self._plan.target == "label" else row.best
        absent = _absent(row, photo.label, seed, self._places()) if "absent" in self._plan.groups else []
        indices = [target, *absent]
        answers = self._asker.ask(content, indices)
        frame = Frame(answers[0]["input"]["region"], self._size)
        mask = self._mask(photo, answers[0], frame) if target == photo.label else None
        judge = partial(self._judge, photo, pixels, target, answers[0], mask, seed)
        judged = [judge(grid_of(answer), is_signed(answer)) for answer in answers]
        more = [
            *self._stability(content, target, answers, frame, seed),
            *self._randomised(pixels, row, target, answers),
            *self._absence(answers, indices),
            *self._attacked(content, target, row, seed, mask, answers),
        ]
        for number, values in more:
            judged[number][0].update(values)
        found = [
            PhotoMeasures(name, variant.name, photo.label, row.best, confidence, *one)
            for variant, one in zip(self._plan.variants, judged)
        ]
        size = grid_of(answers[0]).shape if answers else (TINY_SIDE, TINY_SIDE)
        floors = {floor: draw(pixels, (size[0], size[1]), seed) for floor, draw in FLOORS.items()}
        return found + [
            PhotoMeasures(name, floor, photo.label, row.best, confidence, *judge(grid.astype(np.float32)))
            for floor, grid in floors.items()
        ]

    def _places(self) -> int:
        """Return for how many classes there is room beside the target."""
        limits = self._pipeline.settings.limits
        return min(ABSENT, limits.max_targets - 1, limits.max_maps - 1)

    def _mask(self, photo: LabelledPhoto, answer: Answer, frame: Frame) -> np.ndarray | None:
        """Return which pixels (H, W) of the input show the object; None: nobody says, or it is cropped away.

        PhotoUnanswered: a mask does not fit.
        """
        if photo.masks:
            size = answer["input"]["height"], answer["input"]["width"]
            try:
                mask = place_mask(read_mask(photo.masks, size), frame.region, self._size)
            except ConfigError as error:
                raise PhotoUnanswered(str(error)) from None
        else:
            mask = box_mask(photo.boxes, frame.region, self._size)
        return mask if mask.any() else None

    def _judge(
        self,
        photo: LabelledPhoto,
        pixels: Tensor,
        target: int,
        answer: Answer,
        mask: np.ndarray | None,
        seed: int,
        signed: np.ndarray,
        has_signs: bool = False,
    ) -> tuple[Values, dict[str, Values]]:
        """Return the measures of one map, and how well it fits the object; a signed one goes by how strong it is."""
        grid = np.abs(signed)
        groups, shown = self._plan.groups, enlarge(grid, self._size)
        values: Values = {}
        fits: dict[str, Values] = {}
        if "place" in groups and mask is not None:
            values |= {"pointing": pointing(shown, mask), "energy": energy_inside(shown, mask)}
            size = (answer["input"]["width"], answer["input"]["height"])
            is_boxed = photo.boxes and not has_signs  # signed maps are answered without boxes
            boxed = overlaps(grid, answer["input"]["region"], size, photo.boxes, self._of_tokens) if is_boxed else {}
            masked = mask_overlaps(shown, mask) if photo.masks else {}
            fits = {kind: found for kind, found in (("box", boxed), ("mask", masked)) if found}
        scores = partial(self._asker.probabilities, target)
        if "change" in groups:
            values["deletion"] = deletion(shown, pixels, scores, self._plan.steps, seed)
            values["insertion"] = insertion(shown, pixels, scores, self._plan.steps, seed)
            values["drop"], values["gain"] = drop_and_gain(shown, pixels, scores)
        if "road" in groups:
            values["road"] = road(shown, pixels, scores, seed)
        if "shape" in groups:
            values["complexity"] = complexity(grid)
        return values, fits

    def _stability(
        self, content: bytes, target: int, answers: Sequence[Answer], frame: Frame, seed: int
    ) -> list[tuple[int, Values]]:
        """Return, by the number of the variant, how like the maps of a picture changed a little are."""
        if "stable" not in self._plan.groups:
            return []
        changed = {
            kind: self._asker.ask(picture, [target]) for kind, picture in change_picture(content, frame, seed).items()
        }
        return [
            (number, {kind: compare_maps(kind, grid_of(answer), grid_of(others[number]), frame)})
            for kind, others in changed.items()
            for number, answer in enumerate(answers)
        ]

    def _randomised(
        self, pixels: Tensor, row: RowScores, target: int, answers: Sequence[Answer]
    ) -> list[tuple[int, Values]]:
        """Return how like the maps under drawn weights are, the mean of all stages; nothing of a map that failed."""
        if self._cascade is None:
            return []
        wanted = Target(row.prediction(target), "")
        stages = [
            [
                math.nan if other.grid is None else rank_correlation(grid_of(answer), other.grid) or 0.0
                for answer, other in pairs
            ]
            for maps in self._cascade.maps(pixels, wanted, self._plan.variants)
            for pairs in [list(zip(answers, maps))]
        ]
        means = np.mean(stages, axis=0)
        return [(number, {"random": float(mean)}) for number, mean in enumerate(means) if np.isfinite(mean)]

    def _absence(self, answers: Sequence[Answer], indices: Sequence[int]) -> list[tuple[int, Values]]:
        if len(indices) == 1:
            return []
        return [(number, {"absent": _warned(answer)}) for number, answer in enumerate(answers)]

    def _attacked(
        self, content: bytes, target: int, row: RowScores, seed: int, mask: np.ndarray | None, answers: Sequence[Answer]
    ) -> list[tuple[int, Values]]:
        """Return what becomes of the target's maps where the picture is attacked, and whether the answer warns.

        It is asked about the class that it is then taken for. Nothing where that is the target itself.
        """
        if "attack" not in self._plan.groups:
            return []
        aim = _aim(row, target, seed) if self._plan.attack_class is None else self._plan.attack_class
        if aim in (None, target):
            return []
        attacked = self._asker.ask(attack(self._asker, content, aim), [target, aim][: 1 + self._places()])
        found: list[tuple[int, Values]] = []
        for number, (answer, other) in enumerate(zip(answers, attacked)):
            grid = grid_of(other)
            values = {
                "attack": rank_correlation(grid_of(answer), grid) or 0.0,
                "attack_won": float(other["predictions"][0]["index"] == aim),
                "attack_warned": float(bool(_codes(other, len(other["explanations"]) - 1) - _codes(answer, 0))),
            }
            if mask is not None:
                shown = enlarge(np.abs(grid), self._size)
                values |= {"attack_pointing": pointing(shown, mask), "attack_energy": energy_inside(shown, mask)}
            found.append((number, values))
        return found


def _absent(row: RowScores, label: int, seed: int, count: int) -> list[int]:
    """Return classes that are neither the label nor among the best, drawn at random."""
    others = [int(index) for index in row.order[PLAUSIBLE:] if index != label]
    drawn = np.random.default_rng(seed).permutation(others)[:count]
    return [int(index) for index in drawn]


def _aim(row: RowScores, target: int, seed: int) -> int | None:
    """Return the class that an attack aims at: an absent one, or of few classes the last; None: there is no other."""
    last = [int(index) for index in row.order[::-1] if index != target][:1]
    return next(iter([*_absent(row, target, seed, 1), *last]), None)


def _codes(answer: Answer, number: int) -> set[str]:
    """Return the codes of the warnings of the whole answer and of one of its maps."""
    return {warning["code"] for warning in answer["warnings"] if warning.get("explanation", number) == number}


def _warned(answer: Answer) -> float:
    """Return the share of the absent classes' maps that say how little they show."""
    weak = {warning.get("explanation") for warning in answer["warnings"] if warning["code"] in WEAK}
    count = len(answer["explanations"]) - 1
    return sum(number in weak for number in range(1, count + 1)) / count
