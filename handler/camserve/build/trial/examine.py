"""What is found out about a network by running it, before its archive is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from camserve.build.choose_methods import choose_methods, say_methods, suitable_method
from camserve.build.probe import check_layer
from camserve.build.probe.share import ENOUGH, choose_pictures
from camserve.build.probe.target import TargetLayers, find_target, measure_share
from camserve.build.recipe import Recipe
from camserve.build.trial.contract import check_rows, takes_channels_last
from camserve.build.trial.output import Meaning, find_meanings
from camserve.build.trial.samples import NOISE
from camserve.input_spec import InputSpec
from camserve.network.output import ScoringNetwork
from camserve.settings import Defaults, ModelSpec, RuntimeSpec, Settings
from camserve.values import Progress


@dataclass(frozen=True)
class Examined:
    """What an archive's settings say of its network."""

    meanings: list[Meaning]
    target: TargetLayers
    runtime: RuntimeSpec
    methods: tuple[str, ...]
    defaults: Defaults

    def settings(self, recipe: Recipe, model: ModelSpec, geometry: InputSpec, samples: Sequence[str]) -> Settings:
        """Return the settings that serve a recipe's network, but for what is measured."""
        return Settings(
            model=model,
            input=geometry,
            outputs=tuple(meaning.output for meaning in self.meanings),
            score=recipe.score,
            layers=self.target.layers,
            members=self.target.members,
            members_share=self.target.share,
            runtime=self.runtime,
            methods=self.methods,
            defaults=self.defaults,
            limits=recipe.limits,
            samples=tuple(samples),
            show_samples=recipe.show_samples,
        )


def examine(
    network: ScoringNetwork, recipe: Recipe, pixels: Tensor, labels: Sequence[int | None], report: Progress
) -> Examined:
    """Run a network whose outputs are not known yet on (N, C, H, W) pictures, N at least 3; say how to serve it.

    ``labels`` is the number of class names of each output, where there are any. ``report`` gets a line for each thing
    that was found or taken for granted. ConfigError: it cannot be served as it is; the message says what to do.
    """
    meanings = find_meanings(network.eval().call, pixels, recipe.head_choices, labels, report)
    outputs = [meaning.output for meaning in meanings]
    scoring = ScoringNetwork(network.classifier, *outputs, score=network.score).eval()
    check_rows(scoring, pixels)
    runtime = recipe.runtime
    if runtime.channels_last and not takes_channels_last(scoring, pixels, report):
        runtime = replace(runtime, channels_last=False)
    target = _choose_target(scoring, recipe, pixels, report)
    suitable = suitable_method(scoring, target, pixels)
    methods, defaults = choose_methods(recipe, suitable)
    say_methods(recipe, suitable, methods, target.layers[0], report)
    return Examined(meanings, target, runtime, methods, defaults)


def _choose_target(network: ScoringNetwork, recipe: Recipe, pixels: Tensor, report: Progress) -> TargetLayers:
    names = (recipe.layer,) if isinstance(recipe.layer, str) else recipe.layer
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    shown = choose_pictures(network, pixels, pixels[NOISE:])
    found = find_target(network, pixels, shown) if "auto" in names else TargetLayers(())
    named = {name: measure_share(network, check_layer(network, name, shape), shown) for name in names if name != "auto"}
    layers = tuple(layer for name in names for layer in (found.layers if name == "auto" else (named[name],)))
    for layer in layers:
        part = "" if layer.share >= ENOUGH else f"; {layer.share:.0%} of what makes scores differ passes it"
        report(f"target layer {layer.name}: {layer.layout}, grid {layer.grid[0]} x {layer.grid[1]}{part}")
    if names[0] != "auto":
        return replace(found, layers=layers, members=(), share=1.0)
    if found.members:
        report(f"maps of {' + '.join(found.members)} are added up: {found.share:.0%} passes them together")
    return replace(found, layers=layers)
