"""Classifiers with random weights that behave like trained ones, and what is timed of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camserve.answer.predictions import read, row_scores
from camserve.attribution.capture import Capture
from camserve.attribution.explain import explain, map_requests
from camserve.attribution.linear_head import find_head
from camserve.attribution.methods import METHODS
from camserve.attribution.normalise import Map, measure
from camserve.attribution.objectives import Objectives
from camserve.attribution.tape import Head
from camserve.bench.photos import pixels
from camserve.build.probe import find_layer
from camserve.fast.prepare import DTYPES, prepare
from camserve.labels import Labels
from camserve.network.output import ScoringNetwork
from camserve.settings import RuntimeSpec
from camserve.values import Explanation, Layer, Options

WOKEN = 0.02  # standard deviation of weights that would start at zero
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
SPREAD = 10.0  # of the scores that tell photos apart


@dataclass(frozen=True)
class Subject:
    """A classifier as an archive serves it: frozen, its target layer and closed form found."""

    name: str
    network: ScoringNetwork
    layer: Layer
    head: Head | None
    runtime: RuntimeSpec

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return DTYPES[self.runtime.precision]

    def plain(self, batch: Tensor) -> np.ndarray:
        """Return the scores (N, C), on the host."""
        with torch.inference_mode():
            scores: np.ndarray = self.network(batch.to(self.dtype)).cpu().numpy()
        return scores

    def explained(self, batch: Tensor, classes: int = 1) -> tuple[np.ndarray, list[Map]]:
        """Return the scores and Grad-CAM of the ``classes`` best classes of each row, on the host."""
        if len(batch) <= self._capture.pictures_at_once:
            return self._explained(batch.to(self.dtype), classes)
        groups = torch.split(batch.to(self.dtype), self._capture.pictures_at_once)
        scores, maps = zip(*(self._explained(group, classes) for group in groups))
        return np.concatenate(scores), [each for group in maps for each in group]

    def _explained(self, group: Tensor, classes: int) -> tuple[np.ndarray, list[Map]]:
        with self._capture as capture:
            (seen,) = capture.forward(group)
            signed = METHODS["gradcam"].run(seen, best(seen.scores, classes)).cpu().numpy()
            return seen.scores.cpu().numpy(), measure(signed, ["for"] * len(signed))

    def served(self, batch: Tensor, labels: Labels) -> list[Explanation]:
        """Do what a worker does between pixels and answer: with warnings, shares and probabilities."""
        with self._capture as capture:
            (seen,) = capture.forward(batch.to(self.dtype))
            looks = enumerate(row_scores(*read(seen.scores, "multiclass"), labels, None))
            asked = [each for row, one in looks for each in map_requests(row, one, Options(), self.layer.name)]
            return explain({self.layer.name: seen}, asked)

    @cached_property
    def _capture(self) -> Capture:
        return Capture(self.network, (self.layer,), {self.layer.name: self.head} if self.head else {})


def build(name: str) -> nn.Module:
    """Build one of torchvision's classifiers, in eval mode."""
    from torchvision import models

    torch.manual_seed(0)
    return wake(models.get_model(name)).eval()


@torch.no_grad()
def settle(network: nn.Module) -> nn.Module:
    """Let batch normalisation see photos: random weights would else shrink or blow up the activations."""
    normalising = [each for each in network.modules() if isinstance(each, _BatchNorm)]
    usual = [each.momentum for each in normalising]
    for module in normalising:
        module.train()
        module.momentum = 1.0
    network(pixels(SETTLING, SIDE, torch.device("cpu")))
    for module, momentum in zip(normalising, usual):
        module.eval()
        module.momentum = momentum
    return network


@torch.no_grad()
def tell_apart(network: nn.Module) -> nn.Module:
    """Let the last linear layer give each photo a class of its own: random weights leave all but ties."""
    last = [each for each in network.modules() if isinstance(each, nn.Linear)][-1]
    given: list[Tensor] = []
    handle = last.register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0]))
    network(pixels(SETTLING, SIDE, torch.device("cpu"), RESIZE))
    handle.remove()
    middle = given[0].mean(dim=0)
    distinct = SPREAD * nn.functional.normalize(given[0] - middle, dim=1)
    last.weight[: len(distinct)] = distinct
    last.bias[: len(distinct)] = -distinct @ middle
    return network


def ready(name: str, network: nn.Module, runtime: RuntimeSpec, device: torch.device, side: int = SIDE) -> Subject:
    """Find the target layer and the tail's closed form, as building and loading an archive do."""
    scores = ScoringNetwork(network).eval()
    return load(name, scores, find_layer(scores, (side, side)), runtime, device, side)


def load(
    name: str, network: ScoringNetwork, layer: Layer, runtime: RuntimeSpec, device: torch.device, side: int = SIDE
) -> Subject:
    """Bring a network whose layer is known into the form in which it is served."""
    network.requires_grad_(False).to(device)
    head = find_head(network, layer, (side, side))
    prepare(network, runtime, (layer,), (side, side))
    return Subject(name, network, layer, head, runtime)


def best(scores: Tensor, classes: int) -> Objectives:
    """Ask about the ``classes`` best classes of every row of (N, C) scores."""
    rows = [row for row in range(len(scores)) for _ in range(classes)]
    found = (scores.argmax(dim=1) if classes == 1 else scores.topk(classes, dim=1).indices).view(-1, 1)
    return Objectives(rows, found, torch.ones(found.shape, dtype=torch.float32, device=scores.device), scores.shape[1])


def wake(network: nn.Module) -> nn.Module:
    """Give random values to weights that start at zero; a score that depends on nothing has no map."""
    for name, parameter in network.named_parameters():
        if "bias" not in name.rsplit(".", 1)[-1] and not parameter.detach().any():
            nn.init.normal_(parameter, std=WOKEN)
    return network
