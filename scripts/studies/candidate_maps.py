"""Measure maps that are no methods of camserve's: whether one points better than Grad-CAM that is only made sharper.

Run from a clone: CAMSERVE_DATA=FOLDER .venv/bin/python scripts/studies/candidate_maps.py --keep WORK [--backbone FILE]
[--first]. FOLDER, WORK and the backbone are those of scripts/studies/evidence. --first tells of the photos on which
candidates are chosen, in the place of the others. It prints the table of docs/methods.md.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from camserve.attribution.capture import Capture
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.mar.unpack import open_archive
from camserve.build.trial.measure_methods import redraw_classifier
from camserve.build.trial.rank_correlation import rank_correlation
from camserve.cli.terminal import say
from camserve.errors import CamserveError, ConfigError
from camserve.evaluate.asking import Asker
from camserve.evaluate.frames import box_mask, enlarge
from camserve.evaluate.measures import complexity, energy_inside, pointing
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.statistics import interval
from camserve.input_spec import InputSpec
from camserve.intake.geometry import place_picture
from camserve.serving.pipeline import Pipeline
from camserve.values import Layer
from evidence import CONVOLUTIONAL, PHOTO, PHOTOS, TRANSFORMER, archive_of, recipes
from evidence_tables import write_table
from labelled_photos import data_folder, read_boxed_photos
from token_maps import fit_tokens

DIRECTIONS = 3
SOFTER = 3.0  # a temperature at which other classes than the best one count
SANE_EVERY = 8  # photos
POWERS = 0.02, 50.0  # between which Grad-CAM's values are raised to one
HALVINGS = 30
HEAD = ("network", "photos", "map", "pointing", "beyond Grad-CAM's", "energy", "beyond Grad-CAM's", "beyond sharpened")

Candidate = Callable[[LayerOutput, Objectives], Tensor]
Row = tuple[float, ...]  # pointing, energy, energy of Grad-CAM as sharp, drawn, absent


def less_its_mean(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return Grad-CAM less its mean."""
    maps = METHODS["gradcam"].run(output, objectives)
    return maps - maps.mean(dim=(1, 2), keepdim=True)


def in_directions(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return HiResCAM less its mean, in the principal directions of its terms; EigenGrad-CAM has the first alone."""
    terms = output.gradients(objectives) * output.activations_of(objectives)
    rows = terms.flatten(2).transpose(1, 2).double()
    left, sizes, right = torch.linalg.svd(rows - rows.mean(dim=1, keepdim=True), full_matrices=False)
    kept = left[:, :, :DIRECTIONS] * sizes[:, None, :DIRECTIONS] * right[:, :DIRECTIONS].sum(dim=2)[:, None]
    maps: Tensor = kept.sum(dim=2).reshape(len(terms), *terms.shape[2:]).float()
    return maps


def product(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the product of HiResCAM and ``in_directions`` where both are above 0."""
    return METHODS["hirescam"].run(output, objectives).clamp(min=0) * in_directions(output, objectives).clamp(min=0)


def rather_than_others(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return HiResCAM of a score less the mean of the others, each as likely as it is without the first."""
    asked = objectives.weights.bool()
    others = (output.scores[objectives.row_index] / SOFTER).masked_fill(asked, -torch.inf).softmax(dim=1)
    contrast = Objectives.weighing(objectives.rows, objectives.weights - others)
    return METHODS["hirescam"].run(output, contrast)


CANDIDATES: Mapping[str, Candidate] = {
    "`gradcam`": METHODS["gradcam"].run,
    "`gradcam`, less its mean": less_its_mean,
    "`layercam`": METHODS["layercam"].run,
    "`hirescam`": METHODS["hirescam"].run,
    "`hirescam`, rather than the other classes": rather_than_others,
    "`eigengradcam`": METHODS["eigengradcam"].run,
    "`hirescam`, three directions": in_directions,
    "`hirescam` times its three directions": product,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, metavar="WORK", help="archives")
    parser.add_argument("--backbone", type=Path, help="for the transformer, which is left out without it")
    parser.add_argument("--first", action="store_true", help="the photos on which candidates are chosen")
    args = parser.parse_args()
    try:
        lines = measure_all(data_folder(), args.keep, args.backbone, 0 if args.first else 1)
    except CamserveError as error:
        say(f"camserve: {error}")
        return 1
    print(write_table((*HEAD, "random weights, absent classes"), lines))
    return 0


def measure_all(data: Path, keep: Path, backbone: Path | None, half: int) -> list[tuple[str, ...]]:
    """Return the lines of the table, of every second photo of small objects, from the first or the second on."""
    keep.mkdir(parents=True, exist_ok=True)
    small = read_boxed_photos(data / PHOTOS).small
    parts = {CONVOLUTIONAL[name]: (archive_of(keep, recipe), small) for name, recipe in recipes(data).items()}
    if backbone is not None:
        part = fit_tokens(data / PHOTOS, backbone, keep, PHOTO, say)
        parts[TRANSFORMER] = part.archive, [photo for photo, small in zip(part.photos, part.is_small) if small]
    lines = []
    for name, (archive, photos) in parts.items():
        with open_archive(archive) as pipeline:
            rows = measure_photos(pipeline, photos, half)
        lines += write_lines(name, rows)
        say(f"{name}: {len(rows['`gradcam`'])} photos")
    return lines


def measure_photos(pipeline: Pipeline, photos: Sequence[LabelledPhoto], half: int) -> dict[str, list[Row]]:
    """Return the measures of each candidate, of every second photo of which the network is shown some of the object."""
    asker, layer, drawn = Asker(pipeline, ()), pipeline.settings.layers[0], copy.deepcopy(pipeline.network)
    if not redraw_classifier(drawn, len(pipeline.heads[0].labels)):
        raise ConfigError("no parameter of the network has a row for each class")
    masks = [_mask(photo, pipeline.settings.input) for photo in photos]
    chosen = [pair for pair in zip(photos, masks) if pair[1].any()][half::2]
    rows: dict[str, list[Row]] = {name: [] for name in CANDIDATES}
    for number, (photo, mask) in enumerate(chosen):
        pixels = asker.normalise([asker.read(photo.path.read_bytes())])
        networks = [pipeline.network, *([drawn] if number % SANE_EVERY == 0 else [])]
        for name, row in zip(CANDIDATES, measure_photo(networks, layer, pixels, photo.label, mask)):
            rows[name].append(row)
    return rows


def _mask(photo: LabelledPhoto, spec: InputSpec) -> np.ndarray:
    with Image.open(photo.path) as picture:
        region = place_picture(*picture.size, spec).region
    return box_mask(photo.boxes, region, (spec.shape[1], spec.shape[2]))


def measure_photo(
    networks: Sequence[nn.Module], layer: Layer, pixels: Tensor, label: int, mask: np.ndarray
) -> list[Row]:
    """Return the measures of each candidate for one photo; a second network is that whose last layer is drawn."""
    with Capture(networks[0], (layer,)) as capture:
        (output,) = capture.forward(pixels)
    order = [index for index in output.scores[0].argsort(descending=True).tolist() if index != label]
    maps = [_maps(candidate, output, [label, order[len(order) // 2], order[-1]]) for candidate in CANDIDATES.values()]
    found = [(*_places(one[0], maps[0][0], mask), _mean(one[0], one[1:])) for one in maps]
    if len(networks) == 1:
        return [(*places, np.nan, np.nan) for *places, _ in found]
    with Capture(networks[1], (layer,)) as capture:
        (other,) = capture.forward(pixels)
    count = other.scores.shape[1]
    drawn = [_maps(candidate, other, [0, count // 2, count - 1]) for candidate in CANDIDATES.values()]
    return [(*places, _mean(one[0], others), absent) for (*places, absent), one, others in zip(found, maps, drawn)]


def _maps(candidate: Candidate, output: LayerOutput, classes: Sequence[int]) -> np.ndarray:
    weights = torch.eye(output.scores.shape[1])[list(classes)]
    return candidate(output, Objectives.weighing([0] * len(classes), weights)).numpy()


def _mean(one: np.ndarray, others: np.ndarray) -> float:
    return float(np.mean([rank_correlation(one, other) for other in others]))


def _places(signed: np.ndarray, gradcam: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    grid = np.maximum(signed, 0)
    shown = enlarge(grid, mask.shape)
    as_sharp = enlarge(sharpen(gradcam, complexity(grid)), mask.shape)
    return pointing(shown, mask), energy_inside(shown, mask), energy_inside(as_sharp, mask)


def sharpen(signed: np.ndarray, goal: float) -> np.ndarray:
    """Return the positive part of a map (h, w), raised to the power at which its complexity is ``goal``."""
    grid: np.ndarray = np.maximum(signed, 0).astype(float)
    if not grid.any():
        return grid
    low, high = POWERS
    for _ in range(HALVINGS):
        power = float(np.sqrt(low * high))
        low, high = (power, high) if complexity((grid / grid.max()) ** power) > goal else (low, power)
    return np.asarray((grid / grid.max()) ** low)


def write_lines(network: str, rows: Mapping[str, Sequence[Row]]) -> list[tuple[str, ...]]:
    """Return the lines of one network."""
    usual = np.array(rows["`gradcam`"])
    lines = []
    for name, found in rows.items():
        values = np.array(found)
        figures = [
            *(interval(values[:, 0]), _beyond(values[:, 0], usual[:, 0])),
            *(interval(values[:, 1]), _beyond(values[:, 1], usual[:, 1]), _beyond(values[:, 1], values[:, 2])),
        ]
        sane = " / ".join(f"{np.nanmean(values[:, at]):.2f}" for at in (3, 4))
        lines.append((network, str(len(values)), name, *figures, sane))
    return lines


def _beyond(values: np.ndarray, others: np.ndarray) -> str:
    return interval(values - others) if (values != others).any() else ""


if __name__ == "__main__":
    sys.exit(main())
