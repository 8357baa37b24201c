"""Building a .mar: everything that predicting and explaining needs, tried before it is written.

The archive is self-contained: it carries the served rooms of this package, the weights as
safetensors, labels, settings and sample photos. The same inputs give the same bytes.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import camserve
from camserve.answer.respond import word_meaning
from camserve.build.check import check_expected, check_recipe, multiply_limits
from camserve.build.label_files import label_names, read_class_names
from camserve.build.local_modules import local_modules, module_files
from camserve.build.locate import find_file, module_path
from camserve.build.mar.pack import pack_archive, settings_block, write_config
from camserve.build.mar.replay import replay
from camserve.build.preprocess.geometry import input_spec
from camserve.build.recipe import Recipe
from camserve.build.runtime.compile import require_compiled, stage_compiled
from camserve.build.stage_network import stage_network
from camserve.build.trial.examine import examine
from camserve.build.trial.gradients import choose_runtime
from camserve.build.trial.measure_methods import measure_methods
from camserve.build.trial.output import Meaning
from camserve.build.trial.record import record_selftest
from camserve.build.trial.samples import NOISE, PATTERN, pixels_to_try, stage_samples, try_methods
from camserve.errors import ConfigError
from camserve.files import sha256
from camserve.labels import Labels
from camserve.network.factory import load_score, load_transform
from camserve.network.load import load_network
from camserve.network.output import ScoringNetwork
from camserve.output_spec import Head
from camserve.serving.batch import Classifier, check_contexts
from camserve.serving.load import load_classifier, load_pipeline
from camserve.serving.pipeline import Pipeline
from camserve.serving.seal import write_seal
from camserve.settings import Settings, load_settings
from camserve.values import Progress

# The modules and rooms below the package that an archive carries; no other does it.
SERVED = (
    "values",
    "errors",
    "warning_codes",
    "choices",
    "strict",
    "files",
    "labels",
    "input_spec",
    "output_spec",
    "measures",
    "settings",
    "intake",
    "network",
    "attribution",
    "fast",
    "answer",
    "monitor",
    "viewer",
    "serving",
)


def build_archive(recipe: Recipe, out: Path, report: Progress, fresh_process: bool = True) -> Path:
    """Write ``out``/NAME.mar and return its path; ``report`` gets a line for every step.

    With ``fresh_process`` the packed file is tested once more, in a process of its own, which takes some seconds.
    ConfigError: something in the recipe does not work; nothing is written then.
    """
    check_recipe(recipe)
    report(multiply_limits(recipe.limits, recipe.server_keys))
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as name:
        content = Path(name) / "content"
        _stage_code(recipe, content, report)
        settings, pixels, loaded = _stage_model(recipe, content, report)
        device = torch.device("cpu")
        classifier = loaded or load_classifier(content, settings, device)
        require_compiled(classifier, settings)
        load = partial(load_network, content, settings, device)
        measures = measure_methods(load, settings, classifier, pixels, PATTERN not in settings.samples, report)
        settings = dataclasses.replace(settings, measures=measures)
        _try_samples(
            content, load_pipeline(content, settings, recipe.name, recipe.version, device, classifier), recipe, report
        )
        _write_settings(content, settings, recipe)
        packed = pack_archive(recipe.name, recipe.version, content, Path(name))
        if fresh_process:
            replay(packed, torch.get_num_threads(), mode=settings.runtime.mode)
        target = out / f"{recipe.name}.mar"
        _say_what_is_replaced(target, recipe, report)
        out.mkdir(parents=True, exist_ok=True)
        shutil.move(str(packed), target)
    report(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB, sha256 {sha256(target)[:12]})")
    return target


def _say_what_is_replaced(target: Path, recipe: Recipe, report: Progress) -> None:
    """Report that a file of this name goes: another model may bear the name."""
    if target.exists():
        report(f"{target} is replaced; --name or the recipe's name makes another archive of {recipe.name}")


def _stage_code(recipe: Recipe, content: Path, report: Progress) -> None:
    """Lay out the code that the archive carries: served rooms, model file with the modules beside it, bundles."""
    package = Path(camserve.__file__).parent
    copy_served(package, content / package.name)
    local = _stage_model_file(find_file(recipe.model_file), content, report) if recipe.model_file else ()
    for module in recipe.bundle:
        if module not in local:
            _copy_module(module, content)


def _stage_model_file(file: Path, content: Path, report: Progress) -> tuple[str, ...]:
    shutil.copy(file, content / file.name)
    modules = local_modules(file)
    for path in (path for module in modules for path in module_files(file.parent, module)):
        target = content / path.relative_to(file.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    if modules:
        report(f"{file.name} imports {', '.join(modules)} beside it: carried along")
    return modules


def copy_served(package: Path, target: Path) -> None:
    """Copy the package's ``SERVED`` modules and rooms to the new folder ``target``."""
    target.mkdir(parents=True)
    shutil.copy(package / "__init__.py", target)
    for name in SERVED:
        if (package / name).is_dir():
            _copy_folder(package / name, target / name)
        else:
            shutil.copy(package / f"{name}.py", target)


def _copy_module(module: str, content: Path) -> None:
    source = module_path(module)
    if source.is_file():
        shutil.copy(source, content / source.name)
        return
    if compiled := [path.name for path in source.rglob("*.so")]:
        raise ConfigError(f"bundle: {module} holds compiled code ({compiled[0]}); install it on the server instead")
    _copy_folder(source, content / source.name)


def _copy_folder(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def _stage_model(recipe: Recipe, content: Path, report: Progress) -> tuple[Settings, Tensor, Classifier | None]:
    """Write network, labels and settings; return the settings, the samples' pixels, and the network if it is loaded."""
    if recipe.score is not None:
        check_contexts(recipe.methods)
    geometry = input_spec(recipe.preprocess)
    report(f"input {geometry.describe()}")
    names = [read_class_names(head.labels) for head in recipe.head_choices.values()]
    transform = load_transform(content, geometry)
    samples = stage_samples(recipe.samples, content)
    pixels = pixels_to_try(content, samples, geometry, recipe.limits, transform)
    network, spec = stage_network(recipe, content, geometry.shape, report)
    scoring = ScoringNetwork(network, score=load_score(content, recipe.score, recipe.defaults.context))
    examined = examine(scoring, recipe, pixels, [None if known is None else len(known) for known in names], report)
    for head, meaning in zip(recipe.head_choices.values(), examined.meanings):
        _stage_labels(head.labels, meaning, content, report)
    settings = examined.settings(recipe, spec, geometry, samples)
    checked = ScoringNetwork(network, *settings.outputs, score=scoring.score).eval()
    load = partial(load_classifier, content, device=torch.device("cpu"))
    runtime, classifier = choose_runtime(checked, settings, load, pixels[-1:], report)
    settings = dataclasses.replace(settings, runtime=runtime)
    if settings.runtime.mode == "openvino":
        compiled = stage_compiled(content, settings, recipe.quantise, pixels[NOISE:], transform, report)
        settings = dataclasses.replace(settings, compiled=compiled)
    return load_settings(settings_block(settings)), pixels[NOISE:], classifier


def _write_settings(content: Path, settings: Settings, recipe: Recipe) -> None:
    sealed = dataclasses.replace(settings, seal=write_seal(content, settings))
    write_config({**recipe.server_keys, "camserve": settings_block(sealed)}, content)


def _stage_labels(labels: str | None, meaning: Meaning, content: Path, report: Progress) -> None:
    output = meaning.output
    names = label_names(labels, meaning.classes, report, "output" if output.is_quantity else "class")
    Head(output, Labels(names))  # which checks the units
    (content / output.labels).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _try_samples(content: Path, pipeline: Pipeline, recipe: Recipe, report: Progress) -> None:
    """Send every sample through every head and method. ConfigError: one of them does not work."""
    settings = pipeline.settings
    answers = record_selftest(content, pipeline)
    for sample in settings.samples:
        best = answers[sample]["predictions"][0]
        check_expected(recipe, sample, best)
        try_methods(content, pipeline, sample)
        report(f"{sample}: {best['label']} {word_meaning(best, 3)}, explained by {', '.join(settings.methods)}")
