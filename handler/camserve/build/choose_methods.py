"""The methods that an archive offers, and the one of a request that names none."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from camserve.attribution.capture import Capture
from camserve.attribution.find_head import PICTURES, random_objectives
from camserve.attribution.methods import METHODS
from camserve.build.probe.target import TargetLayers
from camserve.build.recipe import AUTO, Recipe
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.settings import Defaults
from camserve.values import Layer, Progress

METHOD = "gradcam"
OF_TOKENS = "layercam"  # which points best on tokens that the score does not read alike: docs/evidence.md
WITHOUT_GRADIENTS = "reciprocam"
ALIKE = 1e-3  # of the largest gradient


def suitable_method(network: ScoringNetwork, target: TargetLayers, pixels: Tensor) -> str:
    """Return the method that suits the target layer of a network, which is run on ``pixels`` (N, C, H, W).

    Grad-CAM weighs every position alike. That suits a score that does so too; behind a grid of tokens it often reads
    a class token, whose attention weighs positions.
    """
    if not target.gradients:
        return WITHOUT_GRADIENTS
    layer = target.layers[0]
    return OF_TOKENS if layer.layout == "NLC" and not _reads_alike(network, layer, pixels) else METHOD


def _reads_alike(network: ScoringNetwork, layer: Layer, pixels: Tensor) -> bool:
    """Return whether the scores have the same gradient at every position of a layer."""
    with Capture(network, (layer,)) as capture:
        (output,) = capture.forward(pixels[:PICTURES])
        gradients = output.gradients(random_objectives(output))
    spread = (gradients - gradients.mean(dim=(2, 3), keepdim=True)).abs().max()
    return bool(spread <= ALIKE * gradients.abs().max())


def choose_methods(recipe: Recipe, suitable: str) -> tuple[tuple[str, ...], Defaults]:
    """Return the methods that an archive offers and the defaults of its requests; ``suitable`` fills the gaps.

    ConfigError: a compiled archive needs gradients.
    """
    methods, method = recipe.methods or tuple(dict.fromkeys((suitable, METHOD))), recipe.defaults.method
    if suitable == WITHOUT_GRADIENTS:
        methods = tuple(name for name in recipe.methods if not METHODS[name].gradients) or (suitable,)
        method = method if method in methods else AUTO
        if recipe.runtime.mode != "eager":
            raise ConfigError(
                f"runtime.mode {recipe.runtime.mode} needs a network whose gradients reach the target layer"
            )
    if method == AUTO:
        method = suitable if suitable in methods else methods[0]
    return methods, replace(recipe.defaults, method=method)


def say_methods(recipe: Recipe, suitable: str, methods: tuple[str, ...], layer: Layer, report: Progress) -> None:
    """Report why an archive's methods are others than usual."""
    if suitable == WITHOUT_GRADIENTS:
        report(
            f"no gradient of the scores reaches {layer.name} (no_grad, inference_mode or detach() in the network's "
            f"code): explained by {', '.join(methods)}, which need none"
        )
    elif suitable in methods and suitable != METHOD and recipe.defaults.method == AUTO:
        report(f"method: {suitable}, since the grid is of tokens and the score does not read all of them alike")
