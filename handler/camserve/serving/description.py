"""What a client may know of a served model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from camserve.answer.respond import ModelName
from camserve.attribution.methods import METHODS
from camserve.intake.option_parsers import PARSERS
from camserve.monitor.baseline import Baseline
from camserve.output_spec import Head
from camserve.settings import Settings


def describe_model(
    model: ModelName,
    heads: Sequence[Head],
    settings: Settings,
    batch_seconds: float = math.inf,
    baseline: Baseline | None = None,
    slowed: str = "",
) -> dict[str, object]:
    """Return the model's classes, layers, methods, input, options, limits and baseline, as JSON values.

    ``batch_seconds`` is the time that a batch has on this machine, inf where nobody waits; ``slowed`` says why the
    network does not run as its archive says.
    """
    answer_ms = None if math.isinf(batch_seconds) else round(batch_seconds * 1000)
    return {
        "model": model.describe(),
        **_describe_head(heads[0]),
        **({"heads": {head.spec.name: _describe_head(head) for head in heads}} if len(heads) > 1 else {}),
        **({"takes_context": True} if settings.score else {}),
        "layers": [dataclasses.asdict(layer) for layer in settings.layers],
        "methods": _describe_methods(settings),
        "runtime": {**dataclasses.asdict(settings.runtime), **({"slowed": slowed} if slowed else {})},
        "evidence_card": settings.evaluated.describe(),
        "input": dataclasses.asdict(settings.input),
        "options": list(PARSERS),
        "defaults": dataclasses.asdict(settings.defaults),
        "limits": {**dataclasses.asdict(settings.limits), "answer_ms": answer_ms},
        "baseline": None if baseline is None else _describe_baseline(baseline),
    }


def _describe_baseline(baseline: Baseline) -> dict[str, object]:
    made = baseline.provenance
    return {"images": made.images, "date": made.date, "signals_off": baseline.signals_off}


def _describe_head(head: Head) -> dict[str, object]:
    units = {"units": list(head.spec.units)} if head.spec.units else {}
    return {"task": head.spec.task, "labels": list(head.labels), **units}


def _describe_methods(settings: Settings) -> dict[str, dict[str, object]]:
    measures = settings.measures.methods
    return {
        name: {
            "source": METHODS[name].source,
            "passes": METHODS[name].passes,
            "measured": dataclasses.asdict(measures[name]) if name in measures else None,
        }
        for name in settings.methods
    }
