"""From the map requests of a whole batch to its explanations."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camserve.attribution.chosen_channels import map_channels
from camserve.attribution.evidence import channels, share_of_score, signs
from camserve.attribution.fuse import fuse
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.map_request import MapRequest
from camserve.attribution.methods import METHODS, Method
from camserve.attribution.normalise import Map, normalise_maps
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError, OutOfTime
from camserve.values import Explanation, MapSource
from camserve.warning_codes import (
    EXPLANATION_FAILED,
    FAILS_SANITY_CHECK,
    OUT_OF_TIME,
    SATURATED_SOFTMAX,
    WEAK_EVIDENCE,
    AnswerWarning,
    warn_blank,
    warn_double_negative,
    warn_inactive,
    warn_partial_evidence,
)

logger = logging.getLogger(__name__)

TOP_CHANNELS = 10
SATURATED = 0.9999  # a probability above which it no longer tells scores apart
HALF = 0.5  # of the scores' variance that passes the layers; below, a map says that it is of the smaller part


def explain(outputs: Mapping[str, LayerOutput], requests: Sequence[MapRequest]) -> list[Explanation]:
    """Return the explanation of each request, from the ``outputs`` of its layers by name.

    Requests of one method and the same layers share their passes, which begin while one of them has time. Those of a
    slow method must have the same time too, since each row adds passes. A method that fails on all of them is tried
    again one by one, so that a failure stays alone. Cheap methods come first, so that an expensive one cannot use up
    their time.
    """
    groups: dict[tuple[MapSource, str, float], list[int]] = {}
    for number in sorted(range(len(requests)), key=lambda number: _cost(requests[number])):
        request = requests[number]
        end = request.until if METHODS[request.method].slow else math.inf
        groups.setdefault((request.source, request.method, end), []).append(number)
    found: dict[int, Explanation] = {}
    for (source, method, _), numbers in groups.items():
        now = time.monotonic()
        late = [number for number in numbers if requests[number].until < now]
        found.update((number, requests[number].without_map("skipped", OUT_OF_TIME)) for number in late)
        if not (in_time := [number for number in numbers if number not in found]):
            continue
        chosen = [requests[number] for number in in_time]
        until = max(request.until for request in chosen)
        layer_outputs = [outputs[layer].within(until) for layer in source.layers]
        found.update(zip(in_time, _attempt(layer_outputs, METHODS[method], chosen)))
    return [found[number] for number in range(len(requests))]


def _cost(request: MapRequest) -> tuple[int, float]:
    """Rank by what comes first: one pass, many runs of the tail, many of the network; the urgent before the rest."""
    method = METHODS[request.method]
    return 2 * method.reruns + method.tape, request.until


def _attempt(outputs: list[LayerOutput], method: Method, chosen: Sequence[MapRequest]) -> list[Explanation]:
    try:
        return _explanations(outputs, method, chosen)
    except OutOfTime:
        return [request.without_map("skipped", OUT_OF_TIME) for request in chosen]
    except Exception as error:
        # A method that does not suit the network says so in a line.
        reason, trace = (f": {error}", False) if isinstance(error, ConfigError) else ("", True)
        logger.error("method %s failed on %d requests%s", chosen[0].method, len(chosen), reason, exc_info=trace)
        if len(chosen) == 1:
            return [chosen[0].without_map("failed", EXPLANATION_FAILED)]
        return [_attempt(outputs, method, [request])[0] for request in chosen]


def _explanations(outputs: list[LayerOutput], method: Method, chosen: Sequence[MapRequest]) -> list[Explanation]:
    first = outputs[0]
    rows, terms = tuple(request.row for request in chosen), tuple(request.terms for request in chosen)
    objectives = Objectives(rows, terms, first.scores.shape[1], first.scores.device)
    details = _details(first, method, chosen, objectives)
    signed = _signed(outputs, method, chosen, objectives, details)
    adds_up = method.complete and len(outputs) == 1
    shares = share_of_score(first, objectives, signed) if adds_up else [None] * len(chosen)
    shares = [share if request.activation is None else None for request, share in zip(chosen, shares)]
    normalised = normalise_maps(signed.cpu().numpy(), [request.evidence for request in chosen])
    return [_explanation(*row, method) for row in zip(chosen, normalised, shares, details)]


def _signed(
    outputs: list[LayerOutput],
    method: Method,
    chosen: Sequence[MapRequest],
    objectives: Objectives,
    details: Sequence[dict[str, object]],
) -> Tensor:
    """Return the signed maps (T, h, w); ``details`` get what is said of chosen channels."""
    if all(request.channels is None for request in chosen):
        return _combine([method.run(output, objectives) for output in outputs], chosen[0].source)
    signed, found = map_channels(outputs[0], method, objectives, [request.channels for request in chosen])
    for detail, said in zip(details, found):
        detail.update(said)
    return signed


def _combine(maps: Sequence[Tensor], source: MapSource) -> Tensor:
    if len(maps) == 1:
        return maps[0]
    return torch.stack(list(maps)).sum(dim=0) if source.added else fuse(maps, _finest(maps))


def _finest(maps: Sequence[Tensor]) -> tuple[int, int]:
    finest = max(maps, key=lambda signed: signed.shape[1] * signed.shape[2])
    return (finest.shape[1], finest.shape[2])


def _details(
    output: LayerOutput, method: Method, chosen: Sequence[MapRequest], objectives: Objectives
) -> list[dict[str, object]]:
    details: list[dict[str, object]] = [{} for _ in chosen]
    for detail, notes in zip(details, method.notes(output, objectives) if method.notes else []):
        detail.update(notes)
    wanted = frozenset().union(*(request.details for request in chosen))
    # Double negatives need negative activations: most networks that end in a ReLU have none.
    if "signs" in wanted or (method.weighted and float(output.activations.min()) < 0):
        for detail, shares in zip(details, signs(output, objectives)):
            detail["signs"] = {name: round(share, 4) for name, share in shares.items()}
    if "channels" in wanted:
        for detail, strongest in zip(details, channels(output, objectives, TOP_CHANNELS)):
            detail["channels"] = [
                {name: value if name == "channel" else float(f"{value:.5g}") for name, value in channel.items()}
                for channel in strongest
            ]
    return details


def _explanation(
    request: MapRequest, normalised: Map, share: float | None, details: dict[str, object], method: Method
) -> Explanation:
    kept = {
        name: value for name, value in details.items() if name not in ("signs", "channels") or name in request.details
    }
    if not math.isfinite(normalised.total) or not _is_finite(kept):
        return request.without_map("failed", EXPLANATION_FAILED)
    strength = None if request.rise is None else request.measure.strength(normalised.mass, request.rise)
    fading = 1.0 if normalised.blank else request.measure.fading(strength)
    warnings = _warnings(request, normalised, details, method)
    if fading < 1:
        warnings.append(WEAK_EVIDENCE)
    return replace(
        request.without_map("blank" if normalised.blank else "ok", *warnings),
        grid=normalised.grid,
        scale=normalised.scale,
        strength=strength,
        shown=fading,
        balance={"positive": normalised.positive, "negative": normalised.negative, "share_of_score": share},
        details=kept,
    )


def _is_finite(value: object) -> bool:
    """Whether every number of a detail can be written as JSON."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _warnings(request: MapRequest, normalised: Map, details: dict[str, object], method: Method) -> list[AnswerWarning]:
    if request.activation is not None:
        return [warn_inactive(request.evidence, request.activation)] if normalised.blank else []
    warnings = []
    if normalised.blank:
        warnings.append(warn_blank(request.evidence, request.channels is not None))
    if not request.measure.sane:
        warnings.append(FAILS_SANITY_CHECK)
    probability = request.target.prediction.probability
    if probability is not None and probability > SATURATED:
        warnings.append(SATURATED_SOFTMAX)
    if request.source.share < HALF:
        warnings.append(warn_partial_evidence(request.source.share))
    weighs_all = method.weighted and request.channels is None
    if weighs_all and (double := _double_negative(details.get("signs"))) > request.measure.much_double_negative:
        warnings.append(warn_double_negative(double))
    return warnings


def _double_negative(shares: object) -> float:
    """Return the share of the positive mass that two negative factors make."""
    if not isinstance(shares, Mapping):
        return 0.0
    positive = shares["pp"] + shares["nn"]
    return float(shares["nn"] / positive) if positive > 0 else 0.0
