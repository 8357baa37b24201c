"""What a client may know of a served model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from camserve.answer.respond import ModelName
from camserve.attribution.methods import METHODS
from camserve.intake.options import PARSERS
from camserve.output_spec import Head
from camserve.settings import Settings


def describe_model(model: ModelName, heads: Sequence[Head], settings: Settings) -> dict[str, object]:
    """Return the model's classes, layers, methods, input, options and limits, as JSON values."""
    return {
        "model": dataclasses.asdict(model),
        "task": heads[0].spec.task,
        "labels": list(heads[0].labels),
        **({"units": list(heads[0].spec.units)} if heads[0].spec.units else {}),
        "layers": [dataclasses.asdict(layer) for layer in settings.layers],
        "methods": _describe_methods(settings.methods),
        "input": dataclasses.asdict(settings.input),
        "options": list(PARSERS),
        "defaults": dataclasses.asdict(settings.defaults),
        "limits": dataclasses.asdict(settings.limits),
    }


def _describe_methods(names: Sequence[str]) -> dict[str, dict[str, object]]:
    return {name: {"source": METHODS[name].source, "passes": METHODS[name].passes} for name in names}
