"""Maps of a network whose weights are drawn anew from the last layer down (Adebayo et al. 2018, arXiv:1810.03292)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture, Tail
from camserve.attribution.explain import explain
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.map_request import MapRequest
from camserve.attribution.methods import METHODS
from camserve.errors import ConfigError
from camserve.evaluate.plan import Variant
from camserve.network.precision import dtype_of
from camserve.serving.pipeline import Pipeline
from camserve.values import Explanation, Target

STAGES = (0.0, 0.25, 0.5, 1.0)  # shares of the layers with weights that are drawn anew, after the last one alone
SEED = 0


class Cascade:
    """A copy of the network, which loses its weights step by step and gets them back for the next picture."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Copy the network. ConfigError: it is compiled."""
        if pipeline.settings.runtime.mode != "eager" and pipeline.settings.compiled is not None:
            raise ConfigError("--measures random needs runtime.mode eager, since compiled weights stay: leave it out")
        self._pipeline = pipeline
        self._network: nn.Module = copy.deepcopy(pipeline.network)
        self._weights = {name: weight.detach().clone() for name, weight in self._network.state_dict().items()}
        layers = [module for module in self._network.modules() if _own_weights(module)]
        self._stages = [layers[-max(1, round(share * len(layers))) :] for share in STAGES]

    def maps(self, pixels: Tensor, target: Target, variants: tuple[Variant, ...]) -> Iterator[list[Explanation]]:
        """Yield the maps of each variant for one picture (1, C, H, W), stage by stage."""
        self._network.load_state_dict(self._weights)
        drawn: set[int] = set()
        for stage in self._stages:
            # From the last layer down: what is drawn already stays as it is.
            for module in reversed(stage):
                if id(module) not in drawn:
                    drawn.add(id(module))
                    _draw(module)
            tails = self._find_tails() if any(METHODS[variant.method].passes == "none" for variant in variants) else {}
            yield [self._explain(pixels, target, variant, tails) for variant in variants]

    def _find_tails(self) -> dict[str, Tail]:
        """Return what is known of the tails with their present weights, for methods that run no pass."""
        settings = self._pipeline.settings
        layers = settings.layers if settings.score is None else ()
        heads = {layer.name: find_linear_head(self._network, layer, settings.input.shape) for layer in layers}
        return {name: Tail(head) for name, head in heads.items() if head is not None}

    def _explain(self, pixels: Tensor, target: Target, variant: Variant, tails: Mapping[str, Tail]) -> Explanation:
        settings, method = self._pipeline.settings, METHODS[variant.method]
        source = settings.map_source((variant.layer,) if variant.layer else ())
        layers = [layer for layer in settings.layers if layer.name in source.layers]
        wanted = MapRequest(0, target, None, variant.method, source, method.evidence or "for")
        contexts = None if settings.score is None else [settings.defaults.context]
        with Capture(self._network, layers, tails) as capture:
            outputs = capture.forward(pixels.to(dtype_of(settings.runtime)), method.tape, contexts)
        return explain({output.layer.name: output for output in outputs}, [wanted])[0]


def _own_weights(module: nn.Module) -> bool:
    return any(weight.is_floating_point() for weight in module.parameters(recurse=False))


@torch.no_grad()
def _draw(module: nn.Module) -> None:
    """Put the numbers of each weight of a module into another order, so that their mean and spread stay."""
    generator = torch.Generator().manual_seed(SEED)
    for weight in module.parameters(recurse=False):
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.reshape(-1)[order].reshape(weight.shape))
