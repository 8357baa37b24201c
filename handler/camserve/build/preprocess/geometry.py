"""The input geometry that a recipe means by ``preprocess``."""

from __future__ import annotations

from typing import Any

from camserve.errors import ConfigError
from camserve.input_spec import InputSpec


def input_spec(preprocess: InputSpec | str | None) -> InputSpec:
    """Return the input geometry of a block, of "imagenet", or of a torchvision weights name."""
    if preprocess is None:
        raise ConfigError(
            "preprocess is missing: name that of the weights: imagenet, torchvision weights such as "
            "ResNet50_Weights.DEFAULT, or a block in yaml (docs/input.md)"
        )
    if isinstance(preprocess, InputSpec):
        return preprocess
    if preprocess == "imagenet":
        return InputSpec()
    import torchvision

    try:
        transforms = torchvision.models.get_weight(preprocess).transforms()
    except (ValueError, AttributeError, KeyError):
        raise ConfigError(
            f"preprocess: '{preprocess}' is neither 'imagenet' nor torchvision weights such as ResNet50_Weights.DEFAULT"
        ) from None
    return InputSpec(**preset_block(transforms))


def preset_block(transforms: Any) -> dict[str, Any]:
    """Return the input block of the transforms that come with weights of torchvision."""
    return {
        "resize": int(transforms.resize_size[0]),
        "crop": int(transforms.crop_size[0]),
        "interpolation": transforms.interpolation.value,
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
    }
