"""A network of this process made ready to answer, as an archive of it would be."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from camserve.answer.respond import ModelName
from camserve.build.label_files import fit_names, label_names, read_class_names
from camserve.build.preprocess.transforms import Preprocessing
from camserve.build.recipe import Recipe
from camserve.build.trial.examine import examine
from camserve.build.trial.gradients import choose_runtime
from camserve.build.trial.measure_methods import measure_methods
from camserve.build.trial.samples import NOISE, PATTERN, pixels_to_try, stage_samples
from camserve.errors import ConfigError, first_line
from camserve.labels import Labels
from camserve.monitor import Monitor
from camserve.network.factory import plain_network
from camserve.network.output import ScoringNetwork, device_of_network
from camserve.output_spec import line_up
from camserve.serving.batch import Classifier
from camserve.serving.load import prepare_classifier
from camserve.serving.pipeline import Pipeline
from camserve.settings import ModelSpec, Settings
from camserve.values import Progress, RawRequest

CPU = torch.device("cpu")
VERSION = "in-process"
IN_MEMORY = ModelSpec("in:process")  # of a network that no factory makes


def pipeline_of(
    model: nn.Module,
    recipe: Recipe,
    names: list[str] | None,
    preprocessing: Preprocessing,
    photos: Sequence[bytes],
    where: torch.device | str | None,
    report: Progress,
) -> Pipeline:
    """Return what answers with a copy of ``model``, on its own device or ``where``.

    Of the recipe's files its labels alone are read. ``names`` are the classes' where it names none, ``photos`` its
    samples. Its methods that do not work on the network are left out, and ``report`` says so. ConfigError: the network
    cannot be explained as it is.
    """
    network = _copy(model)
    device = device_of_network(model) if where is None else torch.device(where)
    with tempfile.TemporaryDirectory(prefix="camserve-") as folder:
        content = Path(folder)
        samples = stage_samples([str(path) for path in _write(photos, content)], content)
        pixels = pixels_to_try(content, samples, preprocessing.spec, recipe.limits, preprocessing.transform)
        trial = (content / samples[0]).read_bytes()
    settings, classifier, names = _examine(network, recipe, names, preprocessing, pixels, samples, report)
    if device != CPU or classifier is None:
        classifier = _prepare(network, names, settings, device)
    classifier = dataclasses.replace(classifier, transform=preprocessing.transform)
    model_name = ModelName(recipe.name, VERSION, f"sha256:{_digest(network)[:12]}")
    working = tuple(_working(Pipeline(classifier, settings, model_name, Monitor()), trial, report))
    settings = dataclasses.replace(settings, methods=working)
    measures = measure_methods(
        lambda: _scoring(network, settings, CPU), settings, classifier, pixels[NOISE:], PATTERN not in samples, report
    )
    return Pipeline(classifier, dataclasses.replace(settings, measures=measures), model_name, Monitor())


def _copy(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(f"a torch.nn.Module is explained, not a {type(model).__name__}")
    try:
        copied = copy.deepcopy(getattr(model, "_orig_mod", model))  # torch.compile's wrapper would be copied compiled
    except Exception as error:  # of a tensor that a module keeps of its last pass, say
        raise ConfigError(f"the network cannot be copied ({type(error).__name__}: {first_line(error)})") from error
    return plain_network(copied).eval().requires_grad_(False).to(CPU)


def _write(photos: Sequence[bytes], content: Path) -> Iterator[Path]:
    for number, photo in enumerate(photos):
        path = content / f"{number}.photo"
        path.write_bytes(photo)
        yield path


def _examine(
    network: nn.Module,
    recipe: Recipe,
    names: list[str] | None,
    preprocessing: Preprocessing,
    pixels: Tensor,
    samples: Sequence[str],
    report: Progress,
) -> tuple[Settings, Classifier | None, list[str]]:
    """Return the settings, the network on the CPU where it is ready, and a name of each class."""
    known = read_class_names(recipe.labels) if names is None else names
    scoring = ScoringNetwork(network)
    examined = examine(scoring, recipe, pixels, [None if known is None else len(known)], report)
    classes = examined.meanings[0].classes
    if known is None and preprocessing.labels is not None:
        known = _labels_of_weights(preprocessing.labels, classes, report)
    names = label_names(None, classes, report) if known is None else fit_names(known, classes, report)
    settings = examined.settings(recipe, IN_MEMORY, preprocessing.spec, samples)
    checked = _scoring(network, settings, CPU)
    runtime, classifier = choose_runtime(
        checked, settings, lambda other: _prepare(network, names, other, CPU), pixels[-1:], report
    )
    return dataclasses.replace(settings, runtime=runtime), classifier, names


def _labels_of_weights(labels: Sequence[str], classes: int, report: Progress) -> list[str] | None:
    """Return the labels that weights come with; None: the network has another last layer than they."""
    if len(labels) == classes:
        return list(labels)
    report(f"labels of the weights are left out: {len(labels)} for {classes} classes; give labels")
    return None


def _scoring(network: nn.Module, settings: Settings, device: torch.device) -> ScoringNetwork:
    return ScoringNetwork(copy.deepcopy(network), *settings.outputs).eval().requires_grad_(False).to(device)


def _prepare(network: nn.Module, names: Sequence[str], settings: Settings, device: torch.device) -> Classifier:
    heads = line_up(settings.outputs, [Labels(names)])
    return prepare_classifier(lambda: _scoring(network, settings, device), heads, settings, device)


def _digest(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _working(pipeline: Pipeline, photo: bytes, report: Progress) -> Iterator[str]:
    """Yield the methods that explain ``photo``. ConfigError: the default one does not."""
    usual = pipeline.settings.defaults.method
    for method in pipeline.settings.methods:
        with _quiet():
            (response,) = pipeline.answer([RawRequest(photo, {"method": method, "explain": True})])
        answer = json.loads(response.body)
        if "error" in answer:
            raise ConfigError(answer["error"]["message"])
        if answer["explanations"][0]["status"] != "failed":
            yield method
        elif method == usual:
            raise ConfigError(f"method {method} does not work on this network: name others in methods")
        else:
            report(f"method {method} is left out: it does not work on this network")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracebacks of methods that are only tried out of the log."""
    attempts = logging.getLogger("camserve.attribution.explain")
    level = attempts.level
    attempts.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        attempts.setLevel(level)
