"""Classifiers with random weights that behave like trained ones, and the work that is timed on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camserve.answer.predictions import read_scores
from camserve.attribution.capture import Capture
from camserve.attribution.explain import explain
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.map_request import map_requests
from camserve.attribution.methods import METHODS
from camserve.attribution.normalise import Map, normalise_maps
from camserve.attribution.objectives import Objectives
from camserve.bench.photos import load_pixels
from camserve.build.probe import find_layer
from camserve.errors import ConfigError, nearest, quote
from camserve.fast.prepare import Prepared, prepare
from camserve.labels import Labels
from camserve.network.output import ScoringNetwork
from camserve.network.precision import dtype_of
from camserve.output_spec import Head, OutputSpec
from camserve.settings import RuntimeSpec
from camserve.values import Explanation, InputShape, Layer, MapSource, Options

MODELS = (
    "resnet50",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
    "densenet121",
    "swin_t",
    "vit_b_16",
    "vgg16",
)
SIDE, RESIZE = 224, 256  # pixels: of the network, and of a photo's shorter side before it is cut
SETTLING = 8  # photos
WAKING_SPREAD = 0.02  # standard deviation of weights that would start at zero
SCORE_SPREAD = 10.0  # of the scores that separate photos


@dataclass(frozen=True)
class BenchNetwork:
    """A classifier as an archive serves it: frozen, its target layer and closed form found."""

    name: str
    network: ScoringNetwork
    prepared: Prepared
    layer: Layer
    runtime: RuntimeSpec

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights and activations."""
        return dtype_of(self.runtime)

    def predict(self, batch: Tensor) -> np.ndarray:
        """Return the scores (N, C), on the host."""
        with torch.inference_mode():
            scores: np.ndarray = self.prepared.network(batch.to(self.dtype)).cpu().numpy()
        return scores

    def explain(self, batch: Tensor, classes: int = 1) -> tuple[np.ndarray, list[Map]]:
        """Return the scores and Grad-CAM of the ``classes`` best classes of each row, on the host."""
        if len(batch) <= self._capture.pictures_at_once:
            return self._explain(batch.to(self.dtype), classes)
        groups = torch.split(batch.to(self.dtype), self._capture.pictures_at_once)
        scores, maps = zip(*(self._explain(group, classes) for group in groups))
        return np.concatenate(scores), [one for group in maps for one in group]

    def _explain(self, group: Tensor, classes: int) -> tuple[np.ndarray, list[Map]]:
        with self._capture as capture:
            (output,) = capture.forward(group)
            objectives = Objectives.of_top_classes(output.scores, classes)
            signed = METHODS["gradcam"].run(output, objectives).cpu().numpy()
            return output.scores.cpu().numpy(), normalise_maps(signed, ["for"] * len(signed))

    def answer(self, batch: Tensor, labels: Labels) -> list[Explanation]:
        """Return the explanations of a worker, with their warnings, shares and probabilities."""
        with self._capture as capture:
            (output,) = capture.forward(batch.to(self.dtype))
            (head,) = read_scores(output.scores, [Head(OutputSpec(), labels)])
            requests = [
                request
                for row in range(len(batch))
                for request in map_requests(row, head.row(row), Options(), MapSource((self.layer.name,)))
            ]
            return explain({self.layer.name: output}, requests)

    @cached_property
    def _capture(self) -> Capture:
        return Capture(self.prepared.network, (self.layer,), self.prepared.tails)


def build_classifier(name: str) -> nn.Module:
    """Build one of torchvision's classifiers, in eval mode."""
    from torchvision import models

    torch.manual_seed(0)
    return wake(models.get_model(name)).eval()


def wake(network: nn.Module) -> nn.Module:
    """Give random values to weights that start at zero; a score that depends on nothing has no map."""
    for name, parameter in network.named_parameters():
        if "bias" not in name.rsplit(".", 1)[-1] and not parameter.detach().any():
            nn.init.normal_(parameter, std=WAKING_SPREAD)
    return network


@torch.no_grad()
def settle_statistics(network: nn.Module, batch: Tensor | None = None) -> nn.Module:
    """Take the statistics of batch normalisation from ``batch`` (N, C, H, W), or from photos.

    With those of a new network, random weights let the activations vanish or explode.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(load_pixels(SETTLING, SIDE, torch.device("cpu")) if batch is None else batch)
    for norm, momentum in zip(norms, momenta):
        norm.eval()
        norm.momentum = momentum
    return network


@torch.no_grad()
def separate_photos(network: nn.Module) -> nn.Module:
    """Set the last linear layer so that each photo gets a class of its own; random scores are nearly equal."""
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    inputs: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    network(load_pixels(SETTLING, SIDE, torch.device("cpu"), RESIZE))
    handle.remove()
    middle = inputs[0].mean(dim=0)
    distinct = SCORE_SPREAD * nn.functional.normalize(inputs[0] - middle, dim=1)
    last.weight[: len(distinct)] = distinct
    last.bias[: len(distinct)] = -distinct @ middle
    return network


def choose_models(names: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the named models, which commas divide. ConfigError: torchvision has none of that name."""
    from torchvision import models

    chosen = tuple(names.split(",")) if names else default
    known = models.list_models(module=models)
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--models: torchvision has no classifier {quote(name)}{nearest(name, known)}")
    return chosen


def photo_shape(side: int) -> InputShape:
    """Return the shape of square colour photos of ``side`` pixels."""
    return (3, side, side)


def make_subject(
    name: str, network: nn.Module, runtime: RuntimeSpec, device: torch.device, side: int = SIDE
) -> BenchNetwork:
    """Return a subject with its target layer and closed form, found as building and loading an archive do."""
    scores = ScoringNetwork(network).eval()
    return load_subject(name, scores, find_layer(scores, photo_shape(side)), runtime, device, side)


def load_subject(
    name: str, network: ScoringNetwork, layer: Layer, runtime: RuntimeSpec, device: torch.device, side: int = SIDE
) -> BenchNetwork:
    """Return a subject whose target layer is known, in the form in which it is served."""
    network.requires_grad_(False).to(device)
    head = find_linear_head(network, layer, photo_shape(side))
    heads = {} if head is None else {layer.name: head}
    prepared = prepare(network, (layer,), photo_shape(side), runtime, heads)
    return BenchNetwork(name, network, prepared, layer, runtime)
