"""From the map_requests of a whole batch to its explanations."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from camserve.answer.predictions import RowScores
from camserve.attribution.capture import LayerOutput
from camserve.attribution.evidence import channels, share_of_score, signs
from camserve.attribution.fuse import fuse
from camserve.attribution.methods import METHODS, Method
from camserve.attribution.normalise import Map, measure
from camserve.attribution.objectives import Objectives
from camserve.errors import OutOfTime
from camserve.values import Explanation, Options, Prediction, Target
from camserve.warning_codes import (
    EXPLANATION_FAILED,
    FAILS_SANITY_CHECK,
    NO_POSITIVE_EVIDENCE,
    OUT_OF_TIME,
    SATURATED_SOFTMAX,
    AnswerWarning,
    warn_double_negative,
)

logger = logging.getLogger(__name__)

TOP_CHANNELS = 10
SATURATED = 0.9999  # a probability above which it no longer tells scores apart
MUCH_DOUBLE_NEGATIVE = 0.3  # of the mass of the positive map


@dataclass(frozen=True)
class MapRequest:
    """One map that one row asks for."""

    row: int
    target: Target
    contrast: Prediction | None
    method: str
    layers: tuple[str, ...]  # several: their maps are fused
    evidence: str
    details: frozenset[str] = frozenset()
    until: float = math.inf  # time.monotonic() after which no pass is begun for it

    def functional(self) -> list[tuple[int, float]]:
        """Return the classes whose evidence is asked for, each with its sign; a class against itself cancels."""
        sign = -1.0 if self.evidence == "against" else 1.0
        wanted = [(self.target.prediction.index, sign)]
        return wanted if self.contrast is None else [*wanted, (self.contrast.index, -sign)]

    def answer(self, status: str, *warnings: AnswerWarning) -> Explanation:
        """Return the explanation without a map."""
        layer = "+".join(self.layers)
        return Explanation(status, self.method, layer, self.evidence, self.target, self.contrast, warnings=warnings)


def map_requests(
    row: int, outlook: RowScores, options: Options, layer: str, until: float = math.inf
) -> list[MapRequest]:
    """Return the maps that one row asks for, at its own layers or else at ``layer``."""
    return [
        MapRequest(
            row,
            target,
            outlook.contrast(options, target),
            method,
            options.layers or (layer,),
            options.evidence,
            options.details,
            until,
        )
        for method in options.methods
        for target in outlook.targets(options)
    ]


def explain(seen: Mapping[str, LayerOutput], asked: Sequence[MapRequest]) -> list[Explanation]:
    """Answer each question; those of one method, the same layers and the same time share their passes.

    A method that fails on all of them is tried again one by one, so that a failure stays alone. Cheap methods
    come first, so that an expensive one cannot use up their time.
    """
    groups: dict[tuple[tuple[str, ...], str, float], list[int]] = {}
    for number, question in sorted(enumerate(asked), key=lambda each: _cost(each[1])):
        groups.setdefault((question.layers, question.method, question.until), []).append(number)
    found: dict[int, Explanation] = {}
    shared: dict[tuple[object, ...], Objectives] = {}
    for (layers, method, until), numbers in groups.items():
        chosen = [asked[number] for number in numbers]
        # Methods that ask the same map_requests share one Objectives, and so its backward pass.
        key = tuple((each.row, each.target, each.contrast, each.evidence) for each in chosen)
        targets = shared.setdefault(key, _targets(seen[layers[0]], chosen))
        looked = [seen[layer] for layer in layers]
        for each in looked:
            each.until = until
        found.update(zip(numbers, _attempt(looked, METHODS[method], chosen, targets)))
    return [found[number] for number in range(len(asked))]


def _cost(question: MapRequest) -> tuple[int, float]:
    """Rank by what comes first: one pass, many runs of the tail, many of the network; the urgent before the rest."""
    method = METHODS[question.method]
    return 2 * method.reruns + method.tape, question.until


def _targets(seen: LayerOutput, chosen: Sequence[MapRequest]) -> Objectives:
    device = seen.scores.device
    asked = [question.functional() for question in chosen]
    most = max(map(len, asked))
    padded = [[*each, *[(0, 0.0)] * (most - len(each))] for each in asked]
    return Objectives(
        [question.row for question in chosen],
        torch.tensor([[index for index, _ in each] for each in padded], device=device),
        torch.tensor([[sign for _, sign in each] for each in padded], dtype=torch.float32, device=device),
        seen.scores.shape[1],
    )


def _attempt(
    seen: list[LayerOutput], method: Method, chosen: Sequence[MapRequest], targets: Objectives
) -> list[Explanation]:
    try:
        return _answers(seen, method, chosen, targets)
    except OutOfTime:
        return [each.answer("skipped", OUT_OF_TIME) for each in chosen]
    except Exception:
        logger.exception("method %s failed on %d map_requests", chosen[0].method, len(chosen))
        if len(chosen) == 1:
            return [chosen[0].answer("failed", EXPLANATION_FAILED)]
        return [_attempt(seen, method, [each], _targets(seen[0], [each]))[0] for each in chosen]


def _answers(
    seen: list[LayerOutput], method: Method, chosen: Sequence[MapRequest], targets: Objectives
) -> list[Explanation]:
    maps = [method.run(each, targets) for each in seen]
    signed = maps[0] if len(maps) == 1 else fuse(maps, _finest(maps))
    shares = share_of_score(seen[0], targets, signed) if method.complete and len(maps) == 1 else [None] * len(chosen)
    details = _details(seen[0], method, chosen, targets)
    measured = measure(signed.cpu().numpy(), [question.evidence for question in chosen])
    rows = zip(chosen, measured, shares, details)
    return [_explanation(*row, method) for row in rows]


def _finest(maps: Sequence[Tensor]) -> tuple[int, int]:
    finest = max(maps, key=lambda each: each.shape[1] * each.shape[2])
    return (finest.shape[1], finest.shape[2])


def _details(
    seen: LayerOutput, method: Method, chosen: Sequence[MapRequest], targets: Objectives
) -> list[dict[str, object]]:
    details: list[dict[str, object]] = [{} for _ in chosen]
    for number, each in enumerate(method.notes(seen, targets) if method.notes else []):
        details[number].update(each)
    wanted = frozenset().union(*(each.details for each in chosen))
    # Double negatives need negative activations: most networks that end in a ReLU have none.
    if "signs" in wanted or (method.weighted and float(seen.activations.min()) < 0):
        for number, shares in enumerate(signs(seen, targets)):
            details[number]["signs"] = {name: round(share, 4) for name, share in shares.items()}
    if "channels" in wanted:
        for number, found in enumerate(channels(seen, targets, TOP_CHANNELS)):
            details[number]["channels"] = [
                {name: float(f"{value:.5g}") if name != "channel" else value for name, value in each.items()}
                for each in found
            ]
    return details


def _explanation(
    question: MapRequest, measured: Map, share: float | None, details: dict[str, object], method: Method
) -> Explanation:
    if not math.isfinite(measured.total):
        return question.answer("failed", EXPLANATION_FAILED)
    warnings = _warnings(question, measured, details, method)
    kept = {name: value for name, value in details.items() if name not in ("signs", "channels")}
    kept.update({name: details[name] for name in ("signs", "channels") if name in question.details})
    return replace(
        question.answer("blank" if measured.blank else "ok", *warnings),
        grid=measured.grid,
        scale=measured.scale,
        balance={"positive": measured.positive, "negative": measured.negative, "share_of_score": share},
        details=kept,
    )


def _warnings(question: MapRequest, measured: Map, details: dict[str, object], method: Method) -> list[AnswerWarning]:
    warnings = []
    if measured.blank:
        warnings.append(NO_POSITIVE_EVIDENCE)
    if not method.sane:
        warnings.append(FAILS_SANITY_CHECK)
    if question.target.prediction.probability > SATURATED:
        warnings.append(SATURATED_SOFTMAX)
    if method.weighted and (double := _double_negative(details.get("signs"))) > MUCH_DOUBLE_NEGATIVE:
        warnings.append(warn_double_negative(double))
    return warnings


def _double_negative(shares: object) -> float:
    """Return the share of the positive mass that two negative factors make."""
    if not isinstance(shares, Mapping):
        return 0.0
    positive = shares["pp"] + shares["nn"]
    return float(shares["nn"] / positive) if positive > 0 else 0.0
