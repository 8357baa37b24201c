"""Classifiers of torchvision, timm and transformers, each with the target layer that the search must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from camserve.bench.networks import wake
from camserve.build.recipe import HeadChoice
from camserve.build.trial.output import find_meanings
from camserve.network.output import ScoringNetwork
from camserve.values import Layer
from model_file import quiet
from small_networks import CLASSES, SIDE, Network, tokens


class Kind(NamedTuple):
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: Layer

    def scoring(self) -> ScoringNetwork:
        """The network, all of its weights drawn, as an archive serves it."""
        network = wake(self.build().eval())
        pixels = torch.randn(2, 3, *self.size, generator=torch.Generator().manual_seed(0))
        (meaning,) = find_meanings(network, pixels, {"": HeadChoice(activation="none")}, [None], quiet)
        return ScoringNetwork(network, meaning.output).eval()


def vit(**more: Any) -> nn.Module:
    """A timm vision transformer, small but with every part."""
    import timm

    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    return timm.models.VisionTransformer(**{**sizes, **more})


def mixer() -> nn.Module:
    import timm

    return timm.models.MlpMixer(img_size=64, patch_size=16, embed_dim=32, num_blocks=2, num_classes=CLASSES)


def swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=CLASSES)


def convnext() -> nn.Module:
    return models.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=CLASSES)


def convnext_atto() -> nn.Module:
    import timm

    return timm.create_model("convnext_atto")


def hf(name: str, **sizes: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **sizes)
    return getattr(transformers, f"{name}ForImageClassification")(config)


def vgg() -> nn.Module:
    """Torchvision's own trunk of a VGG, with a head that is quick to build."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(16 * 49, CLASSES))
    return Network(models.vgg.make_layers([8, "M", 16, "M", 16, 16, "M"]), head)


def alexnet() -> nn.Module:
    """Torchvision's own trunk of AlexNet, with a head that is quick to build."""
    with torch.device("meta"):
        trunk = models.AlexNet().features.to_empty(device="cpu")
    for part in trunk:
        if isinstance(part, nn.Conv2d):
            part.reset_parameters()
    return Network(trunk, nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(256 * 36, CLASSES)))


def inception() -> nn.Module:
    return models.inception_v3(init_weights=False, aux_logits=True)


TV = {
    "resnet18": Kind(models.resnet18, (64, 96), Layer("layer4", grid=(2, 3))),
    "vgg11": Kind(vgg, (64, 96), Layer("features.9", grid=(16, 24))),
    "alexnet": Kind(alexnet, (128, 128), Layer("features.11", grid=(7, 7))),
    "densenet121": Kind(models.densenet121, (64, 64), Layer("features", grid=(2, 2))),
    "mobilenet_v3_small": Kind(models.mobilenet_v3_small, (64, 64), Layer("features", grid=(2, 2))),
    "squeezenet1_1": Kind(models.squeezenet1_1, (64, 64), Layer("features", grid=(3, 3))),
    "googlenet": Kind(lambda: models.googlenet(init_weights=False), (64, 64), Layer("inception5b", grid=(2, 2))),
    "inception_v3": Kind(inception, (107, 107), Layer("Mixed_7c", grid=(2, 2))),
    "shufflenet": Kind(models.shufflenet_v2_x0_5, (64, 64), Layer("conv5", grid=(2, 2))),
    "swin": Kind(swin, (64, 64), Layer("norm", "NHWC", grid=(8, 8))),
    "convnext": Kind(convnext, (64, 32), Layer("features", grid=(8, 4))),
    "vit": Kind(lambda: tokens().network, (SIDE, SIDE), Layer("encoder.layers.encoder_layer_1.ln_1", "NLC", 1, (4, 4))),
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
    "convnext_atto": Kind(convnext_atto, (64, 64), Layer("stages", grid=(2, 2))),
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
        Layer("vit.layers.1.layernorm_before", "NLC", 1, (4, 4)),
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
