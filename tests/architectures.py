"""Architectures that people serve, each with few and narrow blocks and numbers that are always the same."""

from __future__ import annotations

import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.resnet import BasicBlock

from small_networks import CLASSES, Network, settle

models = torchvision.models


def resnet() -> nn.Module:
    return settle(models.ResNet(BasicBlock, [1, 1, 1, 2], num_classes=CLASSES))


def densenet() -> nn.Module:
    return settle(models.DenseNet(8, (1, 2), 8, num_classes=CLASSES))


def vgg() -> nn.Module:
    linear = (nn.Linear(16 * 16, 16), nn.ReLU(inplace=True), nn.Linear(16, CLASSES))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), *linear)
    return settle(Network(models.vgg.make_layers([8, "M", 16, "M", 16, "M"]), head))


def efficientnet() -> nn.Module:
    blocks = [MBConvConfig(1, 3, 2, 8, 8, 1, 1, 1), MBConvConfig(4, 3, 2, 8, 16, 2, 1, 1)]
    return settle(models.EfficientNet(blocks, 0.2, last_channel=32, num_classes=CLASSES))


def shufflenet() -> nn.Module:
    return settle(models.ShuffleNetV2([1, 2, 1], [8, 16, 16, 16, 32], num_classes=CLASSES))


def swin() -> nn.Module:
    return settle(models.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [4, 4], num_classes=CLASSES))


def convnext() -> nn.Module:
    return settle(models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=CLASSES))


def mobilenet() -> nn.Module:
    return settle(models.MobileNetV2(CLASSES, 0.25))
