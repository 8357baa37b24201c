"""What a person writes down to have one classifier deployed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import yaml

from camserve.build.label_files import IMAGENET, INDICES
from camserve.build.locate import PACKAGE_SCHEME
from camserve.build.write_file import write_text
from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.output_spec import ACTIVATIONS, OutputSpec
from camserve.settings import Defaults, Limits, RuntimeSpec
from camserve.strict import read, require_ranges

AUTO = "auto"  # found when the archive is built
OF_A_HEAD = ("task", "output", "threshold", "units", "labels")  # keys of a recipe that describe its only output


@dataclass(frozen=True)
class Expected:
    """The prediction for a sample by another implementation of the model: guards against a wrong preprocess block."""

    label: str  # of the best class
    probability: Optional[float] = None  # of it, within 0.02
    value: Optional[float] = None  # of task regression, in the place of the probability


@dataclass(frozen=True)
class OutputChoice:
    """What a person says of the output; None: it is found."""

    select: Optional[str] = None  # the way to the tensor: logits, 1, heads.color
    activation: Optional[str] = None  # what stands at the network's end

    def __post_init__(self) -> None:
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise ConfigError(f"output.activation must be one of {', '.join(ACTIVATIONS)}, not '{self.activation}'")


@dataclass(frozen=True)
class HeadChoice:
    """What a person says of one output of a network; None: it is found."""

    select: Optional[str] = None  # the way to its tensor
    activation: Optional[str] = None  # what stands at its end
    task: Optional[str] = None  # what it means
    threshold: float = OutputSpec.threshold  # as above
    labels: Optional[str] = None  # as above
    units: tuple[Optional[str], ...] = ()  # as above


@dataclass(frozen=True)
class QuantiseChoice:
    """How a trunk of precision int8 is made, and what it may change."""

    photos: Optional[str] = None  # a folder: every second photo calibrates, the others compare; null: samples calibrate
    top1_agreement: float = 0.95  # least share of photos whose best class stays that of fp32
    map_correlation: float = 0.99  # least correlation with the map of fp32, at the median photo

    def __post_init__(self) -> None:
        require_ranges(self, {"top1_agreement": (0, 1), "map_correlation": (-1, 1)})


@dataclass(frozen=True)
class RecipeDefaults(Defaults):
    """The options of a request that does not give them; a method that is not named is chosen at build."""

    method: str = AUTO  # one of ``methods``; auto: the one that suits the target layer


@dataclass(frozen=True)
class Recipe:
    """One classifier to deploy, as config/models/*.yaml describe it."""

    name: str  # of the archive and of the served model: letters, digits, . _ -
    weights: str  # .safetensors, a state dict for weights_only loading, or a program: .pt2, TorchScript
    factory: Optional[str] = None  # MODULE:CALLABLE, or a name in ``model_file``; a program needs none
    weights_key: Optional[str] = None  # of several state dicts in a checkpoint: the keys that lead to it
    trust_pickle: bool = False  # unpickle the weights when the archive is built, which runs the code in them
    args: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the factory
    model_file: Optional[str] = None  # a Python file that defines the network; modules beside it travel along
    export: bool = False  # carry the network as an exported program: the server needs no model code
    version: str = "1.0"  # of the served model
    task: Optional[str] = None  # what the outputs mean: found where it can be
    output: OutputChoice = field(default_factory=OutputChoice)  # which tensor holds the scores, and what ends it
    threshold: float = OutputSpec.threshold  # probability from which a class of task multilabel is there
    units: tuple[Optional[str], ...] = ()  # of the values of task regression, one each
    labels: Optional[str] = None  # a file of one name a line or JSON, "imagenet", or "index"
    heads: dict[str, HeadChoice] = field(default_factory=dict)  # of several outputs; the first is the default
    preprocess: Union[InputSpec, str, None] = None  # a block, "imagenet", or a torchvision weights name: never guessed
    layer: Union[str, tuple[str, ...]] = AUTO  # the first of several is the default
    bundle: tuple[str, ...] = ()  # pure Python packages to carry along
    samples: tuple[str, ...] = ()  # photos to try and to carry along: the self-test, and what is usual
    show_samples: bool = False  # offer the first two on the page for browsers: to all who may ask the model
    expect: dict[str, Expected] = field(default_factory=dict)  # by file name of the sample
    score: Optional[str] = None  # MODULE:CALLABLE that asks the network, with the context of each row
    methods: tuple[str, ...] = ()  # that requests may name; none: those that suit the target layer
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)  # how the network is run
    quantise: QuantiseChoice = field(default_factory=QuantiseChoice)  # how int8 is made, of runtime.precision
    defaults: RecipeDefaults = field(default_factory=RecipeDefaults)  # options of a request that does not give them
    limits: Limits = field(default_factory=Limits)  # of a request
    serving: dict[str, Any] = field(default_factory=dict)  # TorchServe's own keys of model-config.yaml

    def __post_init__(self) -> None:
        """Refuse what is said twice (ConfigError)."""
        beside = [name for name in OF_A_HEAD if getattr(self, name) != getattr(Recipe, name, OutputChoice())]
        if self.heads and beside:
            raise ConfigError(f"{', '.join(beside)} beside heads: say it of each head, in its block")

    @property
    def server_keys(self) -> dict[str, Any]:
        """TorchServe's own keys of model-config.yaml, with those that ``serving`` does not give."""
        least = self.serving.get("minWorkers", 1)  # TorchServe drops both numbers where maxWorkers is below it
        usual = {"minWorkers": 1, "maxWorkers": least, "batchSize": 8, "maxBatchDelay": 10, "responseTimeout": 30}
        return {**usual, **self.serving}

    @property
    def head_choices(self) -> dict[str, HeadChoice]:
        """What is said of each output, by its name; the only one has none."""
        if self.heads:
            return self.heads
        output = self.output
        whole = HeadChoice(output.select, output.activation, self.task, self.threshold, self.labels, self.units)
        return {"": whole}


def read_yaml(path: Path) -> object:
    """Return what a YAML file holds. ConfigError: it cannot be read, or is no YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def load_recipe(path: Path) -> Recipe:
    """Read a model yaml; paths in it are relative to its folder. ConfigError names what is wrong."""
    recipe = read(Recipe, read_yaml(path), path.name)
    heads = {
        name: dataclasses.replace(head, labels=_anchor_labels(path, head.labels)) for name, head in recipe.heads.items()
    }
    return dataclasses.replace(
        recipe,
        weights=_anchor(path, recipe.weights),
        model_file=recipe.model_file and _anchor(path, recipe.model_file),
        labels=_anchor_labels(path, recipe.labels),
        heads=heads,
        quantise=dataclasses.replace(
            recipe.quantise, photos=recipe.quantise.photos and _anchor(path, recipe.quantise.photos)
        ),
        samples=tuple(_anchor(path, sample) for sample in recipe.samples),
    )


def recipe_block(recipe: Recipe, path: Path) -> dict[str, Any]:
    """Return the keys of a recipe at ``path`` that are not as usual; files are named from its folder."""
    block = {
        key.name: _plain(getattr(recipe, key.name))
        for key in dataclasses.fields(recipe)
        if getattr(recipe, key.name) != _default(key)
    }
    for key in ("weights", "model_file", "labels"):
        if key in block and block[key] not in (IMAGENET, INDICES):
            block[key] = _from_folder(path, block[key])
    for head in block.get("heads", {}).values():
        if head["labels"] not in (None, IMAGENET, INDICES):
            head["labels"] = _from_folder(path, head["labels"])
    if recipe.quantise.photos is not None:
        block["quantise"]["photos"] = _from_folder(path, recipe.quantise.photos)
    if recipe.samples:
        block["samples"] = [_from_folder(path, sample) for sample in recipe.samples]
    return block


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a model yaml that gives the same archive; files are named from its folder. ConfigError: it cannot be."""
    text = yaml.safe_dump(recipe_block(recipe, path), sort_keys=False, allow_unicode=True)
    write_text(path, f"# Written by camserve archive.\n{text}")


def _default(key: dataclasses.Field[Any]) -> object:
    return key.default if key.default_factory is dataclasses.MISSING else key.default_factory()


def _plain(value: Any) -> Any:
    """Return a value as yaml knows it: dataclasses become blocks, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=_plain))


def _from_folder(path: Path, name: str) -> str:
    return name if name.startswith(PACKAGE_SCHEME) else os.path.relpath(name, path.parent)


def _anchor_labels(path: Path, labels: str | None) -> str | None:
    return labels if labels in (None, IMAGENET, INDICES) else _anchor(path, labels)


def _anchor(path: Path, name: str | None) -> str:
    return str(name) if str(name).startswith(PACKAGE_SCHEME) else str(path.parent / str(name))
