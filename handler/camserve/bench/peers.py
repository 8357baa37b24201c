"""Predictions and maps by other libraries, used as their documentation says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from camserve.attribution.grid import on_grid
from camserve.errors import ConfigError
from camserve.values import Layer

Explainer = Callable[[Tensor], object]  # (N, C, H, W) pixels -> scores and maps of the predicted classes


def make_captum(network: nn.Module, layer: Layer) -> Explainer:
    """LayerGradCam of captum: it needs the class first, so the prediction is a pass of its own."""
    _only_channels_first(layer)
    gradcam = import_module("captum.attr").LayerGradCam(network, network.get_submodule(layer.name))

    def explain(pixels: Tensor) -> object:
        with torch.no_grad():
            scores = network(pixels)
        maps = gradcam.attribute(pixels, target=scores.argmax(dim=1), relu_attributions=True)
        return scores.cpu(), maps.detach().cpu()

    return explain


def make_pytorch_grad_cam(network: nn.Module, layer: Layer) -> Explainer:
    """GradCAM of pytorch-grad-cam: one forward and backward pass, maps at the input's size."""
    gradcam = import_module("pytorch_grad_cam").GradCAM
    target_layers = [network.get_submodule(layer.name)]
    reshape = None if layer.layout == "NCHW" else lambda tensor: on_grid(tensor, layer)

    def explain(pixels: Tensor) -> object:
        with gradcam(model=network, target_layers=target_layers, reshape_transform=reshape) as cam:
            maps = cam(input_tensor=pixels, targets=None)
            return cam.outputs.detach().cpu(), maps

    return explain


def make_torch_cam(network: nn.Module, layer: Layer) -> Explainer:
    """GradCAM of torch-cam: one forward and backward pass, maps at the layer's size."""
    _only_channels_first(layer)
    gradcam = import_module("torchcam.methods").GradCAM

    def explain(pixels: Tensor) -> object:
        with gradcam(network, target_layer=layer.name) as cam:
            scores = network(pixels)
            (maps,) = cam(scores.argmax(dim=1).tolist(), scores)
            return scores.detach().cpu(), maps.cpu()

    return explain


PEERS: Mapping[str, tuple[str, Callable[[nn.Module, Layer], Explainer]]] = {
    "captum": ("captum", make_captum),
    "pytorch-grad-cam": ("pytorch_grad_cam", make_pytorch_grad_cam),
    "torch-cam": ("torchcam", make_torch_cam),
}


def make_peers(classifier: nn.Module, layer: Layer, pixels: Tensor) -> tuple[dict[str, Explainer], dict[str, str]]:
    """Try each library once on a classifier of its own; return those that work, and why the others do not."""
    working: dict[str, Explainer] = {}
    reasons: dict[str, str] = {}
    # These libraries take gradients through the whole network: its parameters must require them.
    network = copy.deepcopy(classifier).requires_grad_(True)
    for name, (module, make) in PEERS.items():
        if find_spec(module) is None:
            reasons[name] = "not installed"
            continue
        try:
            explain = make(network, layer)
            explain(pixels)
        except ConfigError as error:
            reasons[name] = str(error)
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        else:
            working[name] = explain
    return working, reasons


def _only_channels_first(layer: Layer) -> None:
    if layer.layout != "NCHW":
        raise ConfigError(f"reads no layers whose output is {layer.layout}")
