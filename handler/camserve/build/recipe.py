"""What a person writes down to have one classifier deployed, and where the parts of it come from."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import torch
import yaml
from torch import Tensor

from camserve.errors import ConfigError, first_line
from camserve.network.program import HOW_TO_EXPORT, SUFFIX
from camserve.settings import Defaults, InputSpec, Limits, RuntimeSpec
from camserve.strict import read

PACKAGE_SCHEME = "package://"


@dataclass(frozen=True)
class Expected:
    """What somebody else's code has these weights say of a sample: guards against a wrong preprocess block."""

    label: str
    probability: float


@dataclass(frozen=True)
class Recipe:
    """What a person writes down to have one classifier deployed: config/models/*.yaml."""

    name: str
    weights: str  # .safetensors, a state dict for weights_only loading, or a program: .pt2, TorchScript
    factory: Optional[str] = None  # MODULE:CALLABLE, or a name in ``model_file``; a program needs none
    args: dict[str, Any] = field(default_factory=dict)
    model_file: Optional[str] = None
    version: str = "1.0"
    task: str = "multiclass"
    threshold: float = 0.5
    labels: Optional[str] = None  # a file of one label a line, or "imagenet"
    preprocess: Union[InputSpec, str] = "imagenet"  # a block, "imagenet", or a torchvision weights name
    layer: Union[str, tuple[str, ...]] = "auto"  # the first of several is the default
    bundle: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    expect: dict[str, Expected] = field(default_factory=dict)  # by file name of the sample
    methods: tuple[str, ...] = ("gradcam",)
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    serving: dict[str, Any] = field(default_factory=dict)  # TorchServe's own keys; SERVING where not given


def load_recipe(path: Path) -> Recipe:
    """Read a model yaml; paths in it are relative to its folder. ConfigError names what is wrong."""
    try:
        block = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    recipe = read(Recipe, block, path.name)
    labels = recipe.labels if recipe.labels in (None, "imagenet") else _anchor(path, recipe.labels)
    return dataclasses.replace(
        recipe,
        weights=_anchor(path, recipe.weights),
        model_file=recipe.model_file and _anchor(path, recipe.model_file),
        labels=labels,
        samples=tuple(_anchor(path, sample) for sample in recipe.samples),
    )


def _anchor(path: Path, name: str | None) -> str:
    return str(name) if str(name).startswith(PACKAGE_SCHEME) else str(path.parent / str(name))


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
    """Read weights without running code from them. ConfigError: the file holds something else."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = first_line(error)
        raise ConfigError(f"{path.name} is not a plain state dict: {first}") from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(each, Tensor) for each in loaded.values()):
        raise ConfigError(f"{path.name} holds no state dict: save model.state_dict() or safetensors")
    return loaded


def input_spec(preprocess: InputSpec | str) -> InputSpec:
    """Return the input geometry of a block, of "imagenet", or of a torchvision weights name."""
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


def stage_program(path: Path, size: tuple[int, int], target: Path) -> bool:
    """Copy an exported program to ``target``, or convert TorchScript to one; False if ``path`` is neither.

    ConfigError: this torch cannot convert the TorchScript.
    """
    if path.suffix == SUFFIX:
        shutil.copy(path, target)
        return True
    if not zipfile.is_zipfile(path) or not any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, which is why people convert
            _convert(path, size, target)
    except Exception as error:
        first = first_line(error)
        raise ConfigError(
            f"{path.name} is TorchScript that torch {torch.__version__} cannot convert ({first}); export the model "
            f"itself: {HOW_TO_EXPORT}"
        ) from None
    return True


def _convert(path: Path, size: tuple[int, int], target: Path) -> None:
    from torch._export.converter import TS2EPConverter

    load: Any = torch.jit.load
    scripted = load(str(path), map_location="cpu").eval()
    torch.export.save(TS2EPConverter(scripted, (torch.randn(2, 3, *size),)).convert(), str(target))


def label_names(recipe: Recipe, classes: int) -> list[str]:
    """Return one name a class. ConfigError: there are more or fewer names than classes."""
    if recipe.labels is None:
        return [f"class {index}" for index in range(classes)]
    if recipe.labels == "imagenet":
        from torchvision.models import ResNet50_Weights

        labels = list(ResNet50_Weights.DEFAULT.meta["categories"])
    else:
        labels = find_file(recipe.labels).read_text(encoding="utf-8").splitlines()
    if len(labels) != classes:
        raise ConfigError(f"labels: {len(labels)} names for {classes} classes")
    return labels
