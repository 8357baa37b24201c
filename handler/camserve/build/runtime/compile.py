"""The trunk of an archive, converted for OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camserve.build.recipe import QuantiseChoice
from camserve.build.runtime.quantise import QuantisePhotos, quantise, read_calibration
from camserve.errors import CompilationUnavailable, ConfigError
from camserve.fast.prepare import write_compiled
from camserve.fast.split import Split
from camserve.intake.transform import Transform
from camserve.measures import Quantised
from camserve.network.load import load_network
from camserve.serving.batch import Classifier
from camserve.settings import CompiledSpec, Settings
from camserve.values import Progress

EAGER = "or leave runtime.mode eager"


def stage_compiled(
    content: Path,
    settings: Settings,
    choice: QuantiseChoice,
    samples: Tensor,
    transform: Transform | None,
    report: Progress,
) -> CompiledSpec:
    """Write the converted network of an unpacked archive into it; ``samples`` are pixels (N, C, H, W).

    ConfigError: it cannot be converted, or precision int8 changes too much, or what cannot be compared.
    """
    shown = _photos(settings, choice, samples, transform, report) if settings.runtime.precision == "int8" else None
    network = load_network(content, settings, torch.device("cpu"))
    try:
        spec = write_compiled(network, settings, content, _quantiser(settings, choice, shown, report))
    except CompilationUnavailable as error:
        raise ConfigError(f"runtime.mode openvino: {error}; {EAGER}") from None
    report("converted what stands before the target layer for OpenVINO")
    return spec


def _photos(
    settings: Settings, choice: QuantiseChoice, samples: Tensor, transform: Transform | None, report: Progress
) -> QuantisePhotos:
    _require_best_class(settings)
    if choice.photos is not None:
        return read_calibration(choice, settings, transform, report)
    report(
        f"int8: calibrated and tried on the same {len(samples)} samples alone: quantise.photos of a recipe, or "
        "--calibrate FOLDER without one, takes photos"
    )
    return QuantisePhotos(list(samples))


def _require_best_class(settings: Settings) -> None:
    """Refuse int8 where the best class of all scores says nothing, or too little, of what it changes (ConfigError)."""
    tasks = [output.task for output in settings.outputs]
    if tasks != ["multiclass"]:
        raise ConfigError(
            f"runtime.precision int8 is for networks with one multiclass head, whose best class is compared; this has "
            f"{', '.join(tasks)}: use bf16, {EAGER}"
        )


def _quantiser(
    settings: Settings, choice: QuantiseChoice, shown: QuantisePhotos | None, report: Progress
) -> Callable[[Any, Split], tuple[Any, Quantised]] | None:
    if shown is None:
        return None
    return lambda model, halved: quantise(model, halved, settings.layers[0], shown, choice, report)


def require_compiled(classifier: Classifier, settings: Settings) -> None:
    """Refuse a classifier that does not run in OpenVINO as its settings say (ConfigError): another would be measured.

    One of bf16 that OpenVINO computes in fp32 here passes: servers may have bf16, and answer nearly the same.
    """
    if classifier.runtime is not None and classifier.runtime.mode != settings.runtime.mode:
        raise ConfigError(f"runtime.mode openvino: {classifier.slowed}; {EAGER}")
