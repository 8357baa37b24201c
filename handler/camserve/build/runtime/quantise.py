"""An int8 trunk: calibrated by NNCF on photos, and held against float32 on others."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.baseline.photos import find_images
from camserve.build.recipe import QuantiseChoice
from camserve.errors import ConfigError, RequestError, first_line
from camserve.fast.compiled import Trunk, import_openvino, run_trunk
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
MARGIN = 0.6  # of what a limit allows: chance moves the agreement of 250 photos by 1 %
MOST_KEPT = 0.2  # steps a layer; each takes back one layer or several, and many of these take as long as bf16
RANKING = 60  # photos that move most, by which layers are ranked
FLAT = 1e-6  # of a map's norm: less than that is the rounding of float32
WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")  # operations with weights
RESHAPING = ("Convert", "Subtract", "Multiply", "FakeQuantize", "Reshape", "Transpose")  # what weights pass through


@dataclass(frozen=True)
class QuantisePhotos:
    """The pictures that calibrate, and those that compare: N and M tensors (C, H, W)."""

    calibrating: Sequence[Tensor]
    comparing: Sequence[Tensor] = ()  # none: those that calibrate are held against the limits, and nothing is kept


def read_calibration(
    choice: QuantiseChoice, settings: Settings, transform: Transform | None, report: Progress
) -> QuantisePhotos:
    """Return the photos of the recipe's folder, every second of which calibrates. ConfigError: too few can be read."""
    assert choice.photos is not None
    images = find_images(Path(choice.photos))
    count = min(len(images), MOST_PHOTOS)
    spread = [images[place * len(images) // count] for place in range(count)]
    found = [pixels for path in spread for pixels in _read(path, settings, transform)]
    if len(found) < LEAST_PHOTOS:
        raise ConfigError(f"quantise.photos: {len(found)} can be read in {choice.photos}, {LEAST_PHOTOS} are needed")
    report(f"int8: {len(found[::2])} photos calibrate, {len(found[1::2])} others are compared")
    return QuantisePhotos(found[::2], found[1::2])


def _read(path: Path, settings: Settings, transform: Transform | None) -> Iterator[Tensor]:
    try:
        picture = read_pixels(path.read_bytes(), settings.input, settings.limits, transform)
    except (OSError, RequestError):
        return
    yield normalise([picture], settings.input, torch.device("cpu"))[0]


def quantise(
    model: Any, halved: Split, layer: Layer, shown: QuantisePhotos, choice: QuantiseChoice, report: Progress
) -> tuple[Any, Quantised]:
    """Return an int8 trunk of an ``openvino.Model``, and what it changes; ``halved`` is the network, cut after it.

    Best classes change about as often as probabilities move at the mean, which fewer photos tell: layers stay in
    floating point until those that calibrate move by little enough. ConfigError: it is not within the limits of
    ``choice`` all the same, or NNCF is missing.
    """
    quantised = _calibrate(model, halved, shown.calibrating, MARGIN * (1 - choice.top1_agreement), report)
    kept = describe_kept(quantised)
    compared = shown.comparing or shown.calibrating
    expected = observe(halved.whole, layer, compared)
    other = Split(halved.whole, Trunk(quantised, INT8), halved.tail, layer)
    best, maps = observe(other, layer, compared, expected.best)
    agreement = float((best == expected.best).float().mean())
    correlation = float(correlate_maps(maps, expected.maps).median())  # NaN: no map has contrast
    word = f"{agreement:.1%} of the best classes stay, maps correlate {correlation:.4f} at the median"
    report(f"int8{kept and f', {kept} in floating point'}: {word}")
    if agreement < choice.top1_agreement or not correlation >= choice.map_correlation:
        raise ConfigError(
            f"runtime.precision int8 changes too much ({word}; quantise asks for {choice.top1_agreement:g} and "
            f"{choice.map_correlation:g}): use bf16, more photos, or lower limits"
        )
    found = Quantised(len(shown.calibrating), len(shown.comparing), agreement, correlation, kept)
    return quantised, found if shown.comparing else replace(found, top1_agreement=None, map_correlation=None)


class Observed(NamedTuple):
    """What a network makes of N pictures."""

    best: Tensor  # (N,), the best class
    maps: Tensor  # (N, h * w), signed, of a given class


def observe(network: nn.Module, layer: Layer, pictures: Sequence[Tensor], classes: Tensor | None = None) -> Observed:
    """Return best classes, and Grad-CAM of these or of ``classes`` (N,), of pictures (C, H, W)."""
    best, maps = [], []
    with Capture(network, (layer,)) as capture:
        for start in range(0, len(pictures), BATCH):
            pixels = torch.stack(list(pictures[start : start + BATCH]))
            (output,) = capture.forward(pixels.contiguous(memory_format=torch.channels_last))
            best.append(output.scores.argmax(dim=1))
            targets = best[-1] if classes is None else classes[start : start + BATCH]
            weights = torch.nn.functional.one_hot(targets, output.scores.shape[1]).float()
            objectives = Objectives.weighing(range(len(pixels)), weights)
            maps.append(METHODS["gradcam"].run(output, objectives).flatten(1))
    return Observed(torch.cat(best), torch.cat(maps))


def correlate_maps(maps: Tensor, expected: Tensor) -> Tensor:
    """Return the correlations of maps (N, P) with those of the ``expected`` that have contrast: (M,), M <= N.

    A map that lost its contrast correlates 0.
    """
    one, other = (_contrast(given[_contrast(expected).any(dim=1)]) for given in (maps, expected))
    return (one * other).sum(dim=1).div(one.norm(dim=1) * other.norm(dim=1)).nan_to_num()


def _contrast(maps: Tensor) -> Tensor:
    """Return maps (N, P) less their means; those that are flat but for rounding are zero."""
    given = maps.double()
    centred = given - given.mean(dim=1, keepdim=True)
    flat = centred.norm(dim=1, keepdim=True) <= FLAT * given.norm(dim=1, keepdim=True)
    return centred.masked_fill(flat, 0)


def _calibrate(model: Any, halved: Split, photos: Sequence[Tensor], most: float, report: Progress) -> Any:
    """Return an int8 form of an ``openvino.Model``, with layers in floating point until it changes less than ``most``.

    NNCF ranks the layers by what the change falls to without each, and takes the costliest back, in at most
    ``MOST_KEPT`` steps for each layer; a step takes back one layer, or several that share a quantiser. ConfigError:
    NNCF is missing, or cannot.
    """
    import_openvino()  # without what it sends to its maker
    with torch.no_grad():
        shown = [(photo, halved(photo[None]).softmax(dim=1)[0]) for photo in photos]
    try:
        nncf: Any = import_module("nncf")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        tuning = nncf.AdvancedAccuracyRestorerParameters(
            max_num_iterations=math.ceil(MOST_KEPT * len(_weight_sizes(model))),
            ranking_subset_size=max(1, min(RANKING, len(photos) - 1)),  # not all: ``_measure_kept`` reports these
        )
        with redirect_stdout(sys.stderr):  # of its bars
            return nncf.quantize_with_accuracy_control(
                model.clone(),
                nncf.Dataset(shown, lambda row: row[0].permute(1, 2, 0)[None].contiguous().numpy()),
                nncf.Dataset(shown),
                partial(_measure_kept, halved.tail, len(shown), report),
                max_drop=most,
                preset=nncf.QuantizationPreset.MIXED,  # activations that are negative too
                subset_size=len(photos),
                advanced_accuracy_restorer_parameters=tuning,
            )
    except ImportError as error:
        raise ConfigError(f"runtime.precision int8 is made by NNCF ({first_line(error)}): pip install nncf") from None
    except Exception as error:
        raise ConfigError(f"NNCF cannot make the network int8: {first_line(error)}") from None


def _measure_kept(
    tail: nn.Module, count: int, report: Progress, compiled: Any, rows: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, list[float]]:
    """Return what of the probabilities stays with a compiled trunk, 0..1, at the mean and of each row.

    ``rows`` are pictures (C, H, W) with the probabilities (classes,) of float32; of all ``count`` of them ``report``
    gets a line.
    """
    stays: list[float] = []  # NNCF divides by the mean of float32, which is 1
    waiting = iter(rows)
    while batch := list(islice(waiting, BATCH)):
        pictures, expected = (torch.stack(given) for given in zip(*batch))
        with torch.no_grad():
            found = tail(*run_trunk(compiled, pictures)).softmax(dim=1)
        stays += (1 - (found - expected).abs().sum(dim=1) / 2).tolist()
    if len(stays) == count:
        report(f"int8: probabilities move by {1 - fmean(stays):.4f} at the mean")
    return fmean(stays), stays


def describe_kept(model: Any) -> str:
    """Say which of the layers with weights an int8 ``openvino.Model`` keeps in floating point; "": none."""
    sizes = _weight_sizes(model)
    kept = [str(place) for place, size in enumerate(sizes, 1) if size > 1]
    return f"layers {', '.join(kept)} of {len(sizes)}" if kept else ""


def _weight_sizes(model: Any) -> list[int]:
    """Return how many bytes a weight of each layer has, in the order of the program."""
    layers = (node for node in model.get_ordered_ops() if node.get_type_name() in WEIGHTED)
    sources = (_source(layer.input_value(1).get_node()) for layer in layers)
    return [source.get_element_type().size for source in sources if source.get_type_name() == "Constant"]


def _source(node: Any) -> Any:
    """Return what is brought into the shape and scale of weights; of a product of activations no constant."""
    while node.get_type_name() in RESHAPING:
        node = node.input_value(0).get_node()
    return node
