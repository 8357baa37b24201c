"""What can be wrong with a recipe, found before anything is loaded: files, names, options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from camserve.answer.respond import word_meaning
from camserve.attribution.methods import METHODS
from camserve.build.choose_methods import METHOD, choose_methods
from camserve.build.label_files import read_class_names
from camserve.build.local_modules import module_files
from camserve.build.locate import archive_name, find_file, find_weights, module_path
from camserve.build.preprocess.geometry import input_spec
from camserve.build.recipe import QuantiseChoice, Recipe
from camserve.build.server_keys import check_server_keys
from camserve.build.weights.convert import is_program
from camserve.errors import ConfigError, RequestError, unknown_choice
from camserve.input_spec import InputSpec
from camserve.intake.decode import most_memory
from camserve.intake.options import OptionSchema
from camserve.labels import Labels
from camserve.operate.doctor.rules import ANSWER_BYTES
from camserve.output_spec import OutputSpec, line_up
from camserve.serving.pace import OF_TIMEOUT
from camserve.settings import Limits, ModelSpec, Settings
from camserve.values import Layer, RawRequest

EXPECTED_TOLERANCE = 0.02  # of a probability, or of a value as a share of it


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose files, labels, methods or default options are wrong. ConfigError."""
    if archive_name(recipe.name) != recipe.name:
        raise ConfigError(f"name '{recipe.name}' may hold letters, digits, '.', '_' and '-' alone")
    input_spec(recipe.preprocess)
    if recipe.quantise != QuantiseChoice() and recipe.runtime.precision != "int8":
        raise ConfigError("quantise is for int8 alone: set runtime.mode openvino and runtime.precision int8")
    _check_files(recipe)
    for method in recipe.methods:
        if method not in METHODS:
            raise ConfigError(unknown_choice(method, METHODS, "method"))
    check_server_keys(recipe.server_keys)
    names = [read_class_names(head.labels) for head in recipe.head_choices.values()]
    if names[0] is not None:
        _check_defaults(recipe, names[0])


def multiply_limits(limits: Limits, server: Mapping[str, Any]) -> str:
    """Return what the limits come to in one batch of a server with these keys of model-config.yaml.

    ConfigError: an answer could take longer than the server waits, or be longer than it passes on.
    """
    rows, timeout = int(server["batchSize"]), float(server["responseTimeout"])
    if limits.answer_ms is not None and limits.answer_ms > OF_TIMEOUT * timeout * 1000:
        raise ConfigError(
            f"limits.answer_ms {limits.answer_ms} is more than two thirds of serving.responseTimeout, {timeout:g} s, "
            "after which the server ends the worker: lower one or raise the other"
        )
    if limits.max_response_bytes > ANSWER_BYTES:
        raise ConfigError(
            f"limits.max_response_bytes {limits.max_response_bytes} is above the {ANSWER_BYTES} that TorchServe "
            "passes on: a longer answer ends the worker"
        )
    time = "what suits the machine" if limits.answer_ms is None else f"{limits.answer_ms} ms"
    held = most_memory(limits, rows) / 1e9
    return f"limits: the pictures of {rows} rows hold at most {held:.1f} GB, a batch takes {time}"


def _check_files(recipe: Recipe) -> None:
    weights = find_weights(recipe.weights)
    if recipe.factory is None and not recipe.trust_pickle and not is_program(weights):
        raise ConfigError(f"factory is missing: {weights.name} holds weights alone, and it says whose they are")
    if recipe.model_file:
        find_file(recipe.model_file)
    _check_bundle(recipe)
    counted = Counter(find_file(sample).name for sample in recipe.samples)
    if doubled := [name for name, count in counted.items() if count > 1]:
        raise ConfigError(f"samples: two are called {doubled[0]}")
    if recipe.show_samples and not recipe.samples:
        raise ConfigError("show_samples: there are none; name photos in samples, or leave it out")
    if unknown := [name for name in recipe.expect if name not in counted]:
        raise ConfigError(f"expect: {unknown_choice(unknown[0], counted, 'sample')}")


def _check_bundle(recipe: Recipe) -> None:
    beside = Path(recipe.model_file).parent if recipe.model_file else None
    for module in recipe.bundle:
        if beside is None or not module_files(beside, module):
            module_path(module)


def _check_defaults(recipe: Recipe, names: Sequence[str]) -> None:
    """Read the default options as a server reads them, for a network whose layer is not known yet."""
    task = next(iter(recipe.head_choices.values())).task
    heads = line_up([OutputSpec(task=task) if task else OutputSpec()], [Labels(names)])
    methods, defaults = choose_methods(recipe, METHOD)
    settings = Settings(
        ModelSpec("any:factory"),
        InputSpec(),
        (Layer("any"),),
        methods=methods,
        defaults=defaults,
        limits=recipe.limits,
    )
    try:
        OptionSchema(settings, heads).options(RawRequest())
    except RequestError as error:
        raise ConfigError(f"defaults: {error}") from None


def check_expected(recipe: Recipe, sample: str, best: Mapping[str, Any]) -> None:
    """Refuse an archive whose written prediction of a sample is not what the recipe expects. ConfigError."""
    expected = recipe.expect.get(Path(sample).name)
    if expected is None:
        return
    kind = "value" if "value" in best else "probability"
    number = getattr(expected, kind)
    if number is None:
        raise ConfigError(f"expect: {Path(sample).name} needs a {kind}")
    tolerance = EXPECTED_TOLERANCE * (abs(number) if kind == "value" else 1)
    if best["label"] != expected.label or abs(best[kind] - number) > tolerance:
        raise ConfigError(
            f"{sample}: {best['label']} {word_meaning(best, 3)}, not {expected.label} {number:.3f} as expected; are "
            "preprocess and labels those of the weights?"
        )
