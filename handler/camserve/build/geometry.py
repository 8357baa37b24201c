"""The input geometry that a recipe means by ``preprocess``."""

from __future__ import annotations

from camserve.errors import ConfigError
from camserve.settings import InputSpec
from camserve.values import Progress


def input_spec(preprocess: InputSpec | str | None, report: Progress) -> InputSpec:
    """Return the input geometry of a block, of "imagenet", or of a torchvision weights name.

    Where a recipe names none it is ImageNet's, and ``report`` is told. ConfigError: there is no such name.
    """
    if isinstance(preprocess, InputSpec):
        return preprocess
    if preprocess is None:
        report(
            "preprocess imagenet: assumed, resize to 256, crop to 224, ImageNet's mean and deviation; a network that "
            "was trained on other numbers needs them (--preprocess)"
        )
    if preprocess in (None, "imagenet"):
        return InputSpec()
    import torchvision

    try:
        transforms = torchvision.models.get_weight(preprocess).transforms()
    except (ValueError, AttributeError, KeyError):
        raise ConfigError(
            f"preprocess: '{preprocess}' is neither 'imagenet' nor torchvision weights such as ResNet50_Weights.DEFAULT"
        ) from None
    return InputSpec(
        resize=int(transforms.resize_size[0]),
        crop=int(transforms.crop_size[0]),
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
