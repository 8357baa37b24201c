"""The class names that a recipe means by ``labels``."""

from __future__ import annotations

from camserve.build.locate import find_file
from camserve.errors import ConfigError


def label_names(labels: str | None, classes: int) -> list[str]:
    """Return one name a class. ConfigError: there are more or fewer names than classes."""
    if labels is None:
        return [f"class {index}" for index in range(classes)]
    if labels == "imagenet":
        from torchvision.models import ResNet50_Weights

        names = list(ResNet50_Weights.DEFAULT.meta["categories"])
    else:
        names = find_file(labels).read_text(encoding="utf-8").splitlines()
    if len(names) != classes:
        raise ConfigError(f"labels: {len(names)} names for {classes} classes")
    return names
