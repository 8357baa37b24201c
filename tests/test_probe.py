"""The target layer of every kind of classifier is found by running it, and a layer that shows nothing is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from camserve.cams.gradcam import gradcam
from camserve.capture import Capture
from camserve.evaluate.zoo import TOLERANCE, plain_gradcam
from camserve.probe import check_layer, find_layer
from camserve.scores import Scores
from camserve.values import Layer, Targets
from small_networks import CLASSES, SIDE, settle, tokens

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the libraries' own imports
    import timm
    import transformers

models = torchvision.models


class Kind(NamedTuple):
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: Layer


def vit(**more: Any) -> nn.Module:
    """A timm vision transformer, small but with every part."""
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    return timm.models.VisionTransformer(**{**sizes, **more})


def mixer() -> nn.Module:
    return timm.models.MlpMixer(img_size=64, patch_size=16, embed_dim=32, num_blocks=2, num_classes=CLASSES)


def swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=CLASSES)


def convnext() -> nn.Module:
    return models.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=CLASSES)


def hf(name: str, **sizes: Any) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **sizes)
    return getattr(transformers, f"{name}ForImageClassification")(config)


def inception() -> nn.Module:
    return models.inception_v3(init_weights=False, aux_logits=True)


TV = {
    "resnet18": Kind(models.resnet18, (64, 96), Layer("layer4", grid=(2, 3))),
    "vgg11": Kind(models.vgg11, (64, 96), Layer("features.19", grid=(4, 6))),
    "alexnet": Kind(models.alexnet, (128, 128), Layer("features.11", grid=(7, 7))),
    "densenet121": Kind(models.densenet121, (64, 64), Layer("features", grid=(2, 2))),
    "mobilenet_v3_small": Kind(models.mobilenet_v3_small, (64, 64), Layer("features", grid=(2, 2))),
    "squeezenet1_1": Kind(models.squeezenet1_1, (64, 64), Layer("features", grid=(3, 3))),
    "googlenet": Kind(lambda: models.googlenet(init_weights=False), (64, 64), Layer("inception5b", grid=(2, 2))),
    "inception_v3": Kind(inception, (107, 107), Layer("Mixed_7c", grid=(2, 2))),
    "shufflenet": Kind(models.shufflenet_v2_x0_5, (64, 64), Layer("conv5", grid=(2, 2))),
    "swin": Kind(swin, (64, 64), Layer("norm", "NHWC", grid=(8, 8))),
    "convnext": Kind(convnext, (64, 32), Layer("features", grid=(8, 4))),
    "vit": Kind(lambda: tokens().network, (SIDE, SIDE), Layer("encoder.layers.encoder_layer_2.ln_1", "NLC", 1, (4, 4))),
}
TIMM = {
    "class token": Kind(vit, (64, 64), Layer("blocks.1.norm1", "NLC", 1, (4, 4))),
    "registers": Kind(lambda: vit(reg_tokens=4), (64, 64), Layer("blocks.1.norm1", "NLC", 5, (4, 4))),
    "any size": Kind(lambda: vit(dynamic_img_size=True), (64, 96), Layer("blocks.1.norm1", "NLC", 1, (4, 6))),
    "mean of tokens": Kind(
        lambda: vit(global_pool="avg", class_token=False), (64, 64), Layer("blocks", "NLC", 0, (4, 4))
    ),
    "attention pool": Kind(
        lambda: vit(global_pool="map", class_token=False, fc_norm=False), (64, 64), Layer("norm", "NLC", 0, (4, 4))
    ),
    "mixer": Kind(mixer, (64, 64), Layer("norm", "NLC", 0, (4, 4))),
    "convnext_atto": Kind(lambda: timm.create_model("convnext_atto"), (64, 64), Layer("stages", grid=(2, 2))),
}
HF = {
    "resnet": Kind(
        lambda: hf("ResNet", hidden_sizes=[16, 32], depths=[1, 1], embedding_size=8, layer_type="basic"),
        (64, 64),
        Layer("resnet.encoder.stages.1", grid=(8, 8)),
    ),
    "vit": Kind(
        lambda: hf(
            "ViT", image_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        ),
        (64, 64),
        Layer("vit.encoder.layer.1.layernorm_before", "NLC", 1, (4, 4)),
    ),
    "swin": Kind(
        lambda: hf("Swin", image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
        (64, 64),
        Layer("swin.layernorm", "NLC", 0, (8, 8)),
    ),
    "convnext": Kind(
        lambda: hf("ConvNext", image_size=64, hidden_sizes=[16, 32], depths=[1, 1], num_stages=2),
        (64, 64),
        Layer("convnext.encoder.stages.1", grid=(8, 8)),
    ),
}
KINDS = {
    f"{family} {name}": kind
    for family, kinds in {"tv": TV, "timm": TIMM, "hf": HF}.items()
    for name, kind in kinds.items()
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_last_layer_with_positions_and_gradient_is_found_and_its_map_is_right(kind):
    network = Scores(settle(kind.build()))
    layer = find_layer(network, kind.size)
    assert layer == kind.layer
    assert check_layer(network, layer.name, kind.size) == layer
    pixels = torch.randn(2, 3, *kind.size, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([1, 3])
    with Capture(network, (layer,)) as capture:
        (seen,) = capture.forward(pixels)
        ours = gradcam(seen, Targets(torch.arange(2), torch.eye(seen.scores.shape[1])[classes]))
    plain = plain_gradcam(network, layer, pixels, classes)
    assert plain.abs().max() > 0
    assert (ours - plain).abs().max() <= TOLERANCE * plain.abs().max()
