"""The table of signals: what is measured of every request.

A signal is a number whose distribution is compared with that of the reference photos. The table
``SIGNALS`` is the one list of them: metrics, baseline, rules and dashboards follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import camserve.monitor.formulas as formulas
from camserve.monitor.views import Column

BINS = 10
FEW_BINS = 5  # sizes and shapes come in few kinds, and most maps have nothing negative


@dataclass(frozen=True)
class Signal:
    """One number a row."""

    family: str  # predictions, explanations, inputs
    formula: Callable[[Any], Column]  # the family's view of N rows -> (N,)
    bounds: tuple[float, float] | None  # what it cannot leave; None: it has no bounds
    unit: str
    meaning: str
    cause: str  # the likeliest one when it drifts
    bins: int = BINS


UNIT = (0.0, 1.0)
SUBJECT = "the subject changed, or the model looks at something else"
SHAPE = "pictures are squeezed, stretched or turned before they are shown"
CAMERA = "the camera, its place or the cropping before the upload changed"

SIGNALS: Mapping[str, Signal] = {
    "confidence": Signal(
        "predictions",
        formulas.confidence,
        UNIT,
        "probability",
        "probability of the best class",
        "pictures became harder",
    ),
    "margin": Signal(
        "predictions",
        formulas.margin,
        UNIT,
        "probability",
        "best minus second probability",
        "classes became easier to mix up",
    ),
    "entropy": Signal(
        "predictions",
        formulas.entropy,
        UNIT,
        "share of ln K",
        "how evenly the probability is spread over all classes",
        "pictures became harder, or show no known class",
    ),
    "energy": Signal(
        "predictions",
        formulas.energy,
        None,
        "score",
        "logsumexp of the scores (Liu et al. 2020, arXiv:2010.03759); low is unlike the training data",
        "pictures of a kind that the model does not know",
    ),
    "log_mass": Signal(
        "explanations",
        formulas.log_mass,
        None,
        "ln score",
        "how much positive evidence the map holds",
        "weaker evidence",
    ),
    "peak": Signal("explanations", formulas.peak, None, "score", "the strongest cell of the map", "weaker evidence"),
    "area": Signal(
        "explanations",
        formulas.area,
        UNIT,
        "share of the map",
        "effective area of the evidence: its inverse participation ratio",
        "the subject became larger or smaller, or is hidden",
    ),
    "centroid_x": Signal(
        "explanations",
        formulas.centroid_x,
        UNIT,
        "share of the width",
        "where the evidence lies, left to right",
        CAMERA,
    ),
    "centroid_y": Signal(
        "explanations",
        formulas.centroid_y,
        UNIT,
        "share of the height",
        "where the evidence lies, top to bottom",
        CAMERA,
    ),
    "elongation": Signal(
        "explanations",
        formulas.elongation,
        None,
        "ln width/height",
        "how wide the evidence lies for its height: the ratio of its standard deviations across and down",
        SHAPE,
    ),
    "border": Signal(
        "explanations", formulas.border, UNIT, "share of the mass", "evidence in the outer ring of the map", CAMERA
    ),
    "border_mass": Signal(
        "explanations",
        formulas.border_mass,
        None,
        "ln score",
        "how much positive evidence the outer ring holds",
        CAMERA,
    ),
    "negative": Signal(
        "explanations",
        formulas.negative,
        UNIT,
        "share of the mass",
        "evidence against the predicted class",
        SUBJECT,
        FEW_BINS,
    ),
    "brightness": Signal("inputs", formulas.brightness, UNIT, "luma", "mean luma", "lighting or exposure changed"),
    "contrast": Signal(
        "inputs",
        formulas.contrast,
        (0.0, 0.5),
        "luma",
        "standard deviation of luma",
        "lighting, fog or exposure changed",
    ),
    "sharpness": Signal(
        "inputs",
        formulas.sharpness,
        None,
        "ln luma squared",
        "log variance of the Laplacian",
        "focus, compression or the resizing before the upload changed",
    ),
    "saturation": Signal("inputs", formulas.saturation, UNIT, "HSV", "mean saturation", "colour processing changed"),
    "red_minus_blue": Signal(
        "inputs",
        formulas.red_minus_blue,
        (-1.0, 1.0),
        "share",
        "mean red minus mean blue",
        "white balance changed, or red and blue are swapped",
    ),
    "aspect": Signal(
        "inputs",
        formulas.aspect,
        None,
        "ln width/height",
        "shape of the uploaded picture",
        "another client or another cropping",
        FEW_BINS,
    ),
    "log_pixels": Signal(
        "inputs", formulas.log_pixels, None, "log10 pixels", "size of the uploaded picture", "another client", FEW_BINS
    ),
}

CLASS = "class"  # the predicted class: a signal without an order, and so not of the table
NAMES = tuple(SIGNALS)
OF_QUANTITIES = tuple(name for name, signal in SIGNALS.items() if signal.family != "predictions")
COLUMNS = {
    family: [column for column, signal in enumerate(SIGNALS.values()) if signal.family == family]
    for family in ("predictions", "explanations", "inputs")
}
