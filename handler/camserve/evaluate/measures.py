"""The measures: each from a map at the input's resolution, by the paper's definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camserve.answer.render.boxes import boxes
from camserve.values import Box, clip_box

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)  # of a map's maximum
MOST_CELLS = 4096  # of a map that is boxed: the parts of finer ones are specks
FITS = 0.5  # an intersection over union from which a box is found (ILSVRC)
BLUR, KERNEL = 5.0, 11  # pixels, of what insertion begins with

Scores = Callable[[Tensor], np.ndarray]  # (N, C, H, W) pixels -> (N,) probabilities of the explained class


@dataclass(frozen=True)
class Measure:
    """What one number of a map is."""

    group: str
    words: str
    source: str
    is_better: int  # 1: more is better; -1: less is


MEASURES: Mapping[str, Measure] = {
    "pointing": Measure("place", "the maximum lies in a box", "Zhang et al. 2016, arXiv:1608.00507, without margin", 1),
    "energy": Measure("place", "share of the map in the boxes", "Wang et al. 2020, arXiv:1910.01279", 1),
    "box": Measure("place", "the first box has an IoU of .5", "Selvaraju et al. 2017, arXiv:1610.02391", 1),
    "mask": Measure("place", "IoU of the strongest part with the object's mask", "Zhou et al. 2016, by a threshold", 1),
    "deletion": Measure("change", "mean probability while the strongest is removed", "Petsiuk et al. 2018", -1),
    "insertion": Measure("change", "mean probability while the strongest is shown", "Petsiuk et al. 2018", 1),
    "drop": Measure("change", "share of the probability lost by masking", "Chattopadhyay et al. 2018", -1),
    "gain": Measure("change", "masking raises the probability", "Chattopadhyay et al. 2018, increase", 1),
    "road": Measure("road", "what the strongest pixels are worth more than the weakest", "Rong et al. 2022", 1),
    "complexity": Measure("shape", "entropy, 1 for a flat map", "Bhatt et al. 2020, arXiv:2005.00631", -1),
    "jpeg": Measure("stable", "rank correlation after JPEG of quality 50", "Spearman", 1),
    "noise": Measure("stable", "rank correlation under noise of 10 of 255", "Spearman", 1),
    "shift": Measure("stable", "rank correlation, moved back, after a shift of 1/16", "Spearman", 1),
    "random": Measure("random", "rank correlation with maps of drawn weights", "Adebayo et al. 2018, cascading", -1),
    "absent": Measure("absent", "absent classes that are said to be weak", "docs/answers.md", 1),
    "attack": Measure("attack", "rank correlation under an attack", "Madry et al. 2018, PGD of 8 of 255", 1),
    "attack_won": Measure("attack", "the attacked picture is taken for the other class", "Madry et al. 2018", -1),
    "attack_warned": Measure("attack", "its answer has a warning that the picture's own has not", "docs/answers.md", 1),
    "attack_pointing": Measure("attack", "pointing under the attack, for the true class", "Zhang et al. 2016", 1),
    "attack_energy": Measure("attack", "energy under the attack, for the true class", "Wang et al. 2020", 1),
}
GROUPS = tuple(dict.fromkeys(measure.group for measure in MEASURES.values()))
NAMED = (
    "road",
    "random",
    "attack",
)  # groups that take long, or do not suit every archive
USUAL_GROUPS = tuple(group for group in GROUPS if group not in NAMED)


def pointing(values: np.ndarray, mask: np.ndarray) -> float:
    """Return whether the maximum of a map (H, W) lies inside a mask; of several equal ones, the share; 0: blank.

    Zhang et al. 2016, section 4.2, without their margin of 15 pixels.
    """
    strongest = values == values.max()
    return float(mask[strongest].mean()) if values.max() > 0 else 0.0


def energy_inside(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a map's sum inside a mask; 0: blank. Wang et al. 2020, section 4.2."""
    total = float(values.sum())
    return float(values[mask].sum()) / total if total > 0 else 0.0


def overlaps(
    grid: np.ndarray, region: Box, size: tuple[float, float], truth: Sequence[Box], of_tokens: bool = False
) -> dict[str, float]:
    """Return by threshold the IoU of a map's first box with the true box that it fits best; {}: the map is too fine.

    ``size`` is the picture's width and height.
    """
    if grid.size > MOST_CELLS:
        return {}
    found = {}
    for threshold in THRESHOLDS:
        (first, *_) = [*boxes(np.maximum(grid, 0), region, threshold, of_tokens), None]
        clipped = None if first is None else clip_box(first, *size)
        found[f"{threshold:g}"] = 0.0 if clipped is None else max(overlap(clipped, box) for box in truth)
    return found


def mask_overlaps(values: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return by threshold the IoU of a mask (H, W) with what of a map (H, W) is at least that share of its maximum."""
    most = values.max()
    found = {}
    for threshold in THRESHOLDS:
        part = values >= threshold * most if most > 0 else np.zeros_like(mask)
        found[f"{threshold:g}"] = float((part & mask).sum() / max((part | mask).sum(), 1))
    return found


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    across, down = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, across) * max(0.0, down)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both) if both else 0.0


def deletion(values: np.ndarray, pixels: Tensor, scores: Scores, steps: int, seed: int) -> float:
    """Return the area under the probability while the strongest pixels become the mean colour, 0 (Petsiuk et al. 2018).

    ``pixels`` is (1, C, H, W), normalised; equal pixels go in random order.
    """
    return _curve(values, pixels, torch.zeros_like(pixels), scores, steps, seed)


def insertion(values: np.ndarray, pixels: Tensor, scores: Scores, steps: int, seed: int) -> float:
    """Return the area under the probability while the strongest pixels are put into the blurred picture."""
    return _curve(values, blur(pixels), pixels, scores, steps, seed)


def _curve(values: np.ndarray, start: Tensor, end: Tensor, scores: Scores, steps: int, seed: int) -> float:
    order = np.lexsort((np.random.default_rng(seed).random(values.size), -values.ravel()))
    ranks = np.empty(values.size, int)
    ranks[order] = np.arange(values.size)
    changed = torch.from_numpy(ranks.reshape(values.shape)).to(start.device)
    limits = [round(step * values.size / steps) for step in range(steps + 1)]
    shown = torch.cat([torch.where(changed < limit, end, start) for limit in limits])
    found = scores(shown)
    return float((found[:-1] + found[1:]).sum() / 2 / steps)


def blur(pixels: Tensor) -> Tensor:
    """Return (N, C, H, W) pixels under a bell curve of 5 pixels in a window of 11, as RISE's code has it."""
    places = torch.arange(KERNEL, device=pixels.device) - KERNEL // 2
    line = torch.exp(-(places.float() ** 2) / (2 * BLUR**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    channels = pixels.shape[1]
    padded = functional.pad(pixels, [KERNEL // 2] * 4, mode="replicate")
    return functional.conv2d(padded, kernel.expand(channels, 1, KERNEL, KERNEL).to(pixels.dtype), groups=channels)


def drop_and_gain(values: np.ndarray, pixels: Tensor, scores: Scores) -> tuple[float, float]:
    """Return the share of the probability that masking by the map loses, and whether it gains (Chattopadhyay 2018).

    The mask is the map divided by its maximum, times the normalised pixels, as in pytorch-grad-cam.
    """
    mask = torch.from_numpy(values / values.max() if values.max() > 0 else values).to(pixels)
    before, after = scores(torch.cat([pixels, pixels * mask]))
    return float(max(0.0, before - after) / max(before, 1e-12)), float(after > before)


def complexity(grid: np.ndarray) -> float:
    """Return the entropy of a map's shares, of the largest possible (Bhatt et al. 2020): 1, flat or blank."""
    mass = np.maximum(grid, 0).ravel()
    if not mass.any() or mass.size == 1:
        return 1.0
    shares = mass[mass > 0] / mass.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(mass.size))
