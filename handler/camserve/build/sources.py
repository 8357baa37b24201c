"""Where the parts of an archive come from: files, installed packages, weights, labels, preprocessing."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camserve.errors import ConfigError, first_line
from camserve.input_spec import InputSpec
from camserve.network.program import HOW_TO_EXPORT, SUFFIX
from camserve.values import InputShape

PACKAGE_SCHEME = "package://"


def module_path(module: str) -> Path:
    """Return the file or folder of an installed module. ConfigError: it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"there is no installed module '{module}'")
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def find_file(name: str) -> Path:
    """Return the path behind a file name or package://module/path. ConfigError: there is no such file."""
    path = Path(name)
    if name.startswith(PACKAGE_SCHEME):
        module, _, inner = name[len(PACKAGE_SCHEME) :].partition("/")
        path = module_path(module) / inner
    if not path.is_file():
        raise ConfigError(f"there is no file '{name}'")
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return weights, read without running code from the file. ConfigError: the file holds something else."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path.name} is not a plain state dict: {first_line(error)}") from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigError(f"{path.name} holds no state dict: save model.state_dict() or safetensors")
    return loaded


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
    return InputSpec(
        resize=int(transforms.resize_size[0]),
        crop=int(transforms.crop_size[0]),
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def stage_program(path: Path, shape: InputShape, target: Path) -> bool:
    """Copy an exported program to ``target``, or convert TorchScript to one; False if ``path`` is neither.

    ConfigError: this torch cannot convert the TorchScript.
    """
    if path.suffix == SUFFIX:
        shutil.copy(path, target)
        return True
    if not _is_torchscript(path):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, which is why people convert
            _convert(path, shape, target)
    except Exception as error:
        raise ConfigError(
            f"{path.name} is TorchScript that torch {torch.__version__} cannot convert ({first_line(error)}); export "
            f"the model itself: {HOW_TO_EXPORT}"
        ) from None
    return True


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _convert(path: Path, shape: InputShape, target: Path) -> None:
    from torch._export.converter import TS2EPConverter

    load: Any = torch.jit.load
    scripted = load(str(path), map_location="cpu").eval()
    torch.export.save(TS2EPConverter(scripted, (torch.randn(2, *shape),)).convert(), str(target))


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
