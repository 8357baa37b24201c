"""An int8 trunk: calibrated by NNCF on photos, and held against float32 on others."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.baseline.photos import find_images
from camserve.build.recipe import QuantiseChoice
from camserve.errors import ConfigError, RequestError, first_line
from camserve.fast.compiled import Trunk, import_openvino
from camserve.fast.split import Split
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.intake.transform import Transform
from camserve.measures import Quantised
from camserve.settings import Settings
from camserve.values import Layer, Progress

LEAST_PHOTOS = 100
MOST_PHOTOS = 600  # half of them calibrate
BATCH = 8  # photos of one pass
INT8 = "int8"
FIRST, LAST = 3, 4  # layers that cost MobileNetV2 most of its agreement with float32
LEAST_LAYERS = 4 * (FIRST + LAST)  # of which keeping so many leaves most in int8
FLAT = 1e-6  # of a map's norm: less than that is the rounding of float32
WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")  # operations with weights


@dataclass(frozen=True)
class Shown:
    """The pictures that calibrate, and those that compare: N and M tensors (C, H, W)."""

    calibrating: Sequence[Tensor]
    comparing: Sequence[Tensor] = ()  # none: those that calibrate are held against the limits, and nothing is kept


def read_photos(choice: QuantiseChoice, settings: Settings, transform: Transform | None, report: Progress) -> Shown:
    """Return the photos of the recipe's folder, every second of which calibrates. ConfigError: too few can be read."""
    assert choice.photos is not None
    images = find_images(Path(choice.photos))
    count = min(len(images), MOST_PHOTOS)
    spread = [images[place * len(images) // count] for place in range(count)]
    found = [pixels for path in spread for pixels in _read(path, settings, transform)]
    if len(found) < LEAST_PHOTOS:
        raise ConfigError(f"quantise.photos: {len(found)} can be read in {choice.photos}, {LEAST_PHOTOS} are needed")
    report(f"int8: {len(found[::2])} photos calibrate, {len(found[1::2])} others are compared")
    return Shown(found[::2], found[1::2])


def _read(path: Path, settings: Settings, transform: Transform | None) -> Iterator[Tensor]:
    try:
        picture = read_pixels(path.read_bytes(), settings.input, settings.limits, transform)
    except (OSError, RequestError):
        return
    yield normalise([picture], settings.input, torch.device("cpu"))[0]


def quantise(
    model: Any, halved: Split, layer: Layer, shown: Shown, choice: QuantiseChoice, report: Progress
) -> tuple[Any, Quantised]:
    """Return an int8 trunk of an ``openvino.Model``, and what it changes; ``halved`` is the network, cut before it.

    The first that keeps within the limits of ``choice`` is taken: all of it in int8, or with its outermost layers in
    floating point. ConfigError: none does, or NNCF is missing.
    """
    compared = shown.comparing or shown.calibrating
    expected = _observe(halved.whole, layer, compared)
    for kept, ignored in _plans(model):
        quantised = _calibrate(model, shown.calibrating, ignored)
        other = Split(halved.whole, Trunk(quantised, INT8), halved.tail, layer)
        best, maps = _observe(other, layer, compared, expected.best)
        agreement = float((best == expected.best).float().mean())
        correlation = median_correlation(maps, expected.maps)
        word = f"{agreement:.1%} of the best classes stay, maps correlate {correlation:.4f} at the median"
        report(f"int8{kept and f', {kept} in floating point'}: {word}")
        if agreement >= choice.top1_agreement and correlation >= choice.map_correlation:
            found = Quantised(len(shown.calibrating), len(shown.comparing), agreement, correlation, kept)
            return quantised, found if shown.comparing else replace(found, top1_agreement=None, map_correlation=None)
    raise ConfigError(
        f"runtime.precision int8 changes too much ({word}; quantise asks for {choice.top1_agreement:g} and "
        f"{choice.map_correlation:g}): use bf16, more photos, or lower limits{_untried(model)}"
    )


class Observed(NamedTuple):
    """What a network makes of N pictures."""

    best: Tensor  # (N,), the best class
    maps: Tensor  # (N, h * w), signed, of a given class


def _observe(network: nn.Module, layer: Layer, pictures: Sequence[Tensor], classes: Tensor | None = None) -> Observed:
    """Return best classes, and Grad-CAM of these or of ``classes`` (N,), of pictures (C, H, W)."""
    best, maps = [], []
    with Capture(network, (layer,)) as capture:
        for start in range(0, len(pictures), BATCH):
            pixels = torch.stack(list(pictures[start : start + BATCH]))
            (output,) = capture.forward(pixels.contiguous(memory_format=torch.channels_last))
            best.append(output.scores.argmax(dim=1))
            asked = best[-1] if classes is None else classes[start : start + BATCH]
            weights = torch.nn.functional.one_hot(asked, output.scores.shape[1]).float()
            objectives = Objectives.weighing(range(len(pixels)), weights)
            maps.append(METHODS["gradcam"].run(output, objectives).flatten(1))
    return Observed(torch.cat(best), torch.cat(maps))


def median_correlation(maps: Tensor, expected: Tensor) -> float:
    """Return the median of the correlations of N maps (N, P) with those that were expected.

    A map that lost its contrast correlates 0; where none was expected it says nothing. NaN: nowhere was one expected.
    """
    one, other = (_contrast(given[_contrast(expected).any(dim=1)]) for given in (maps, expected))
    return float((one * other).sum(dim=1).div(one.norm(dim=1) * other.norm(dim=1)).nan_to_num().median())


def _contrast(maps: Tensor) -> Tensor:
    """Return maps (N, P) less their means; those that are flat but for rounding are zero."""
    given = maps.double()
    centred = given - given.mean(dim=1, keepdim=True)
    flat = centred.norm(dim=1, keepdim=True) <= FLAT * given.norm(dim=1, keepdim=True)
    return centred.masked_fill(flat, 0)


def _plans(model: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield which layers are kept in floating point, in words and by the names of their operations."""
    yield "", []
    if len(weighted := _weighted(model)) >= LEAST_LAYERS:
        yield f"its first {FIRST} and last {LAST} layers", [*weighted[:FIRST], *weighted[-LAST:]]


def _weighted(model: Any) -> list[str]:
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in WEIGHTED]


def _untried(model: Any) -> str:
    """Say why the outermost layers were not kept in floating point; "": they were."""
    layers = len(_weighted(model))
    return "" if layers >= LEAST_LAYERS else f"; to keep the outermost of {layers} layers, {LEAST_LAYERS} are needed"


def _calibrate(model: Any, photos: Sequence[Tensor], ignored: list[str]) -> Any:
    """Return an int8 form of an ``openvino.Model``. ConfigError: NNCF is missing, or cannot."""
    import_openvino()  # without what it sends to its maker
    try:
        nncf: Any = import_module("nncf")
        nncf.set_log_level(logging.ERROR)
        rows = nncf.Dataset([photo.permute(1, 2, 0)[None].contiguous().numpy() for photo in photos])
        with redirect_stdout(sys.stderr):  # of its bars
            return nncf.quantize(
                model.clone(),
                rows,
                preset=nncf.QuantizationPreset.MIXED,  # activations that are negative too
                subset_size=len(photos),
                ignored_scope=nncf.IgnoredScope(names=ignored),
            )
    except ImportError as error:
        raise ConfigError(f"runtime.precision int8 is made by NNCF ({first_line(error)}): pip install nncf") from None
    except Exception as error:
        raise ConfigError(f"NNCF cannot make the network int8: {first_line(error)}") from None
