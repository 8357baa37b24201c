"""Loading an unpacked archive: its network, labels and baseline, ready to answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from camserve.answer.respond import ModelName
from camserve.attribution.capture import Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.methods import METHODS
from camserve.errors import CamserveError, CompilationUnavailable, ConfigError, first_line
from camserve.fast.compiled import Trunk
from camserve.fast.prepare import check_compiled, prepare, prepare_halves
from camserve.fast.split import Split
from camserve.files import inside
from camserve.intake.decode import check_decoders, harden_pillow
from camserve.intake.options import OptionSchema
from camserve.labels import load_labels
from camserve.monitor import Monitor, load_baseline
from camserve.monitor.measure import MapFilter
from camserve.network.factory import load_transform
from camserve.network.load import check_weights, load_network
from camserve.network.output import ScoringNetwork
from camserve.network.precision import cast, dtype_of
from camserve.output_spec import Head, line_up
from camserve.serving.batch import Classifier
from camserve.serving.pipeline import Pipeline
from camserve.serving.sample_photos import shrink_samples
from camserve.serving.seal import check_seal
from camserve.serving.selftest import self_test
from camserve.settings import RuntimeSpec, Settings
from camserve.values import RawRequest

logger = logging.getLogger(__name__)

Loader = Callable[[], ScoringNetwork]  # returns a network of its own at each call


def load_classifier(folder: Path, settings: Settings, device: torch.device, tested: bool = False) -> Classifier:
    """Load an unpacked archive. ConfigError: its parts do not fit one another.

    Where OpenVINO cannot run its trunk here the network runs in mode eager, and one warning says why. Where ``tested``
    says that the self-test follows, which compares its answers, mode openvino does without the eager network.
    """
    load = _load_halves if tested and _may_be_halves(settings) else _load
    try:
        return load(folder, settings, device)
    except CompilationUnavailable as error:
        return _load_eager(folder, settings, device, str(error))


def _load_eager(folder: Path, settings: Settings, device: torch.device, reason: str) -> Classifier:
    eager = settings.runtime.eager
    logger.warning("camserve: the network runs in mode eager, precision %s: %s", eager.precision, reason)
    return replace(_load(folder, replace(settings, runtime=eager), device), slowed=reason)


def _may_be_halves(settings: Settings) -> bool:
    """Whether the self-test can tell that a network of mode openvino is right, and no method asks the eager one."""
    compared = settings.selftest == "refuse" and bool(settings.samples)
    needed = any(METHODS[method].asks_pixels for method in settings.methods)
    return settings.runtime.mode == "openvino" and compared and not needed


def _load_halves(folder: Path, settings: Settings, device: torch.device) -> Classifier:
    """Load a network of mode openvino without the eager one. CompilationUnavailable: it does not run here."""
    check_compiled(folder, settings, device)
    check_weights(folder, settings)
    heads, runtime = _heads(folder, settings), settings.runtime
    _set_threads(runtime)
    (layer,) = settings.layers
    try:
        prepared = prepare_halves(layer, settings.input.shape, runtime.precision, folder)
    except CamserveError:
        raise
    except Exception as error:  # the eager network may still be right
        raise CompilationUnavailable(first_line(error)) from None
    return _as_computed(Classifier(prepared.network, heads, device, prepared.tails, runtime=runtime), runtime)


def _set_threads(runtime: RuntimeSpec) -> None:
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)


def _heads(folder: Path, settings: Settings) -> tuple[Head, ...]:
    return line_up(settings.outputs, [load_labels(inside(folder, output.labels)) for output in settings.outputs])


def _load(folder: Path, settings: Settings, device: torch.device) -> Classifier:
    if settings.runtime.mode == "openvino":
        check_compiled(folder, settings, device)
    heads = _heads(folder, settings)
    return prepare_classifier(lambda: load_network(folder, settings, device), heads, settings, device, folder)


def prepare_classifier(
    load: Loader, heads: tuple[Head, ...], settings: Settings, device: torch.device, folder: Path | None = None
) -> Classifier:
    """Return the network that ``load`` returns, ready to answer: frozen, in float32, on ``device``, changed in place.

    ``folder`` holds the trunk of mode openvino. Where shortcuts fail on it, ``load`` is called again.
    """
    runtime, layers, shape = settings.runtime, settings.layers, settings.input.shape
    _set_threads(runtime)
    network = load()
    # What follows a layer may depend on a context: a closed form would hold for one alone.
    plain = layers if settings.score is None else ()
    found = {layer.name: find_linear_head(network, layer, shape) for layer in plain}
    linear = {name: head for name, head in found.items() if head is not None}
    if runtime.fast:
        try:
            prepared = prepare(network, layers, shape, runtime, linear, folder if runtime.mode == "openvino" else None)
        except CamserveError:
            raise
        except Exception as error:  # a shortcut that does not fit this network is no reason not to serve it
            logger.warning("camserve: the network runs without shortcuts: %s", first_line(error))
            slow = replace(settings, runtime=replace(runtime.eager, fast=False))
            return replace(prepare_classifier(load, heads, slow, device), slowed=first_line(error))
        return _as_computed(Classifier(prepared.network, heads, device, prepared.tails, runtime=runtime), runtime)
    cast(network, dtype_of(runtime))
    tails = {name: Tail(head) for name, head in linear.items()}
    return Classifier(network, heads, device, tails, runtime=runtime)


def _as_computed(classifier: Classifier, runtime: RuntimeSpec) -> Classifier:
    """Return a classifier that says in which precision OpenVINO computes here; one warning where it is another."""
    network = classifier.network
    if not isinstance(network, Split) or not isinstance(network.trunk, Trunk):
        return classifier
    found = network.trunk.precision
    if found == runtime.precision:
        return classifier
    reason = f"OpenVINO computes in {found} here: this processor has no {runtime.precision}"
    logger.warning("camserve: %s", reason)
    return replace(classifier, runtime=replace(runtime, precision=found), slowed=reason)


def load_pipeline(
    folder: Path,
    settings: Settings,
    name: str,
    version: str,
    device: torch.device,
    loaded: Classifier | None = None,
    tested: bool = False,
) -> Pipeline:
    """Load an unpacked archive, of which ``loaded`` is the classifier where the caller has it; ``tested`` as there.

    ConfigError: one line says what in it is wrong.
    """
    harden_pillow()
    check_decoders(settings.input)
    transform = load_transform(folder, settings.input)  # before what takes its time
    classifier = replace(loaded or load_classifier(folder, settings, device, tested), transform=transform)
    settings = replace(settings, runtime=classifier.runtime or settings.runtime)
    weights = f"sha256:{settings.model.source_sha256[:12]}"
    model = ModelName(name, version, weights, settings.evaluated.card_id)
    return Pipeline(classifier, settings, model, _monitor(folder, settings, classifier.heads))


def _monitor(folder: Path, settings: Settings, heads: Sequence[Head]) -> Monitor:
    usual = OptionSchema(settings, heads).options(RawRequest())  # what a request gets that asks for nothing
    map_filter = MapFilter(usual, settings.map_source().name)
    name = settings.monitoring.baseline
    baseline = None if name is None else load_baseline(inside(folder, name), settings, map_filter)
    limit = settings.monitoring.low_confidence
    if limit is None and (baseline is None or baseline.accuracy is None):
        limit = settings.evaluated.low_confidence
    return Monitor(map_filter, baseline, limit)


def device_of(gpu: object) -> torch.device:
    """Return the GPU of a number, or the CPU where there is no number or no GPU."""
    return torch.device("cpu" if gpu is None or not torch.cuda.is_available() else f"cuda:{gpu}")


def load_archive(folder: Path, settings: Settings, name: str, version: str, device: torch.device) -> Pipeline:
    """Load an unpacked archive as it was built, and test it on its own photos. ConfigError says what is wrong.

    Where its answers in OpenVINO are others here, as int8 and bf16 may give on another processor, it runs eager.
    """
    check_seal(folder, settings)
    pipeline = load_pipeline(folder, settings, name, version, device, tested=True)
    if fault := _test(pipeline, folder, device):
        eager = _load_eager(folder, settings, device, fault)
        pipeline = load_pipeline(folder, settings, name, version, device, eager)
        _test(pipeline, folder, device)
    pipeline.shown_samples = shrink_samples(folder, settings) if settings.show_samples else ()
    return pipeline


def _test(pipeline: Pipeline, folder: Path, device: torch.device) -> str:
    """Return why a pipeline in OpenVINO fails its self-test; "": it does not. ConfigError: it fails in mode eager."""
    try:
        pipeline.monitor.selftest_ok = self_test(pipeline, folder, device)
    except ConfigError as error:
        if pipeline.settings.runtime.mode == "eager":
            raise
        return str(error)
    return ""
