"""Loading the classifier that an archive carries: network, weights, labels."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camserve.attribution.linear_head import find_head
from camserve.attribution.tape import Head
from camserve.errors import ConfigError, NotHere
from camserve.fast.compiled import TAIL, TRUNK, machine, read_halves, write_halves
from camserve.fast.fold import fold
from camserve.fast.packing import can_pack, pack, packable
from camserve.fast.split import example, split
from camserve.labels import Labels, load_labels
from camserve.network.output import Scores
from camserve.network.program import SUFFIX, load_program
from camserve.network.weights import load_weights, sha256
from camserve.settings import CompiledSpec, ModelSpec, RuntimeSpec, Settings
from camserve.values import Layer

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Classifier:
    """A network that is ready to be asked: frozen, in eval mode, on its device."""

    network: nn.Module  # (N, 3, H, W) pixels -> (N, C) scores before softmax
    labels: Labels
    device: torch.device
    heads: Mapping[str, Head]  # the closed form of the tail, for layers that have one


def load_classifier(folder: Path, settings: Settings, device: torch.device) -> Classifier:
    """Load an unpacked archive. ConfigError: its parts do not fit one another.

    Where its compiled trunk cannot be run here the network runs in mode eager, and one warning says why.
    """
    try:
        return _load(folder, settings, device)
    except NotHere as error:
        logger.warning("camserve: the network runs eager, as it would in mode eager: %s", error)
        return _load(folder, replace(settings, runtime=replace(settings.runtime, mode="eager")), device)


def _load(folder: Path, settings: Settings, device: torch.device) -> Classifier:
    if settings.runtime.mode == "aot":  # known before anything takes its time
        _check_compiled(folder, settings.compiled, device)
    network = load_network(folder, settings, device)
    labels = load_labels(inside(folder, settings.labels))
    probed = {layer.name: find_head(network, layer, settings.input.size) for layer in settings.layers}
    heads = {name: head for name, head in probed.items() if head is not None}
    prepare(network, settings.runtime, settings.layers, settings.input.size)
    running = _accelerated(network, folder, settings, device)
    if running is not network:  # an exported tail has no modules: a hidden layer of it cannot be watched
        heads = {name: head for name, head in heads.items() if head.hidden is None}
    return Classifier(running, labels, device, heads)


def load_network(folder: Path, settings: Settings, device: torch.device) -> Scores:
    """Build the network and load its weights, frozen and in float32; no pickle is ever read.

    ConfigError: the factory and the weights do not fit one another.
    """
    path = inside(folder, settings.model.weights)
    if (found := sha256(path)) != settings.model.sha256:
        raise ConfigError(f"{path.name} has the SHA-256 {found[:12]}..., not {settings.model.sha256[:12]}...")
    if path.suffix == SUFFIX:
        network = load_program(path, [layer.name for layer in settings.layers], settings.input.size)
    else:
        network = build_network(settings.model, folder)
        fill(network, load_weights(path))
    return Scores(network, settings.model.task == "binary").eval().requires_grad_(False).to(device)


def _accelerated(network: Scores, folder: Path, settings: Settings, device: torch.device) -> nn.Module:
    """Return a prepared network with a compiled trunk if the settings ask for one. NotHere: that does not work here."""
    (layer, *_), mode = settings.layers, settings.runtime.mode
    if mode == "eager":
        return network
    if mode == "aot":
        return read_halves(network, layer, folder)
    with tempfile.TemporaryDirectory(prefix="camserve-compiled-") as made:
        write_compiled(network, settings, device, Path(made))
        return read_halves(network, layer, Path(made))


def write_compiled(network: Scores, settings: Settings, device: torch.device, folder: Path) -> CompiledSpec:
    """Compile a prepared network into ``folder``. NotHere: it cannot be compiled on this machine."""
    pixels = example(settings.input.size, DTYPES[settings.runtime.precision], device)
    write_halves(*split(network, settings.layers[0], pixels), pixels, folder)
    return CompiledSpec(machine(device), sha256(folder / TRUNK), sha256(folder / TAIL))


def _check_compiled(folder: Path, spec: CompiledSpec | None, device: torch.device) -> None:
    """NotHere: for another machine. ConfigError: the compiled files are not those that the archive was built with."""
    if spec is None:
        raise ConfigError("runtime.mode aot needs an archive that was built with it")
    for name, expected in ((TRUNK, spec.trunk_sha256), (TAIL, spec.tail_sha256)):
        if (found := sha256(inside(folder, name))) != expected:
            raise ConfigError(f"{name} has the SHA-256 {found[:12]}..., not {expected[:12]}...")
    if (here := machine(device)) != spec.machine:
        raise NotHere(f"it was compiled for {spec.machine}, and this is {here}")


def prepare(network: Scores, runtime: RuntimeSpec, layers: tuple[Layer, ...], size: tuple[int, int]) -> None:
    """Bring a frozen float32 network into the form in which it is to run; what ``layers`` give stays what it is."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    dtype = DTYPES[runtime.precision]
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    pixels = example(size, torch.float32, device)
    packs = runtime.mode == "eager" and runtime.channels_last and can_pack(dtype, device)
    kept = {layer.name for layer in layers}
    if dtype != torch.float32:  # packed weights keep an exact bias; elsewhere a folded one would be rounded
        exact = packable(network, layers, pixels) if packs else {}
        kept |= {name for name, _ in network.named_modules() if f"{name}.weight" not in exact}
    fold(network, kept, pixels)
    biases = packable(network, layers, pixels) if packs else {}
    _cast(network, dtype)
    if runtime.channels_last:
        network.to(memory_format=torch.channels_last)
    pack(network, biases, pixels.to(dtype))


def _cast(network: Scores, dtype: torch.dtype) -> None:
    """Shorten all numbers of a network but those of normalisations: rounding these costs accuracy."""
    exact = [(each, copy.deepcopy(each.state_dict())) for each in network.modules() if isinstance(each, _BatchNorm)]
    network.to(dtype)
    for module, numbers in exact:
        module.float().load_state_dict(numbers)


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of the archive. ConfigError: it lies outside or is missing."""
    path = (folder / name).resolve()
    if folder.resolve() not in path.parents:
        raise ConfigError(f"'{name}' does not lie inside the archive")
    if not path.is_file():
        raise ConfigError(f"the archive has no file '{name}'")
    return path


def build_network(spec: ModelSpec, folder: Path) -> nn.Module:
    """Call the factory. ConfigError: it cannot be imported, fails, or makes no network."""
    factory = _factory(spec, folder)
    try:
        network = factory(**spec.args)
    except Exception as error:
        raise ConfigError(f"model.factory {spec.factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.factory {spec.factory} made a {type(network).__name__}, not a torch.nn.Module")
    return network


def _factory(spec: ModelSpec, folder: Path) -> Callable[..., object]:
    assert spec.factory is not None
    module_name, _, attribute = spec.factory.rpartition(":")
    if spec.file is None and not module_name:
        raise ConfigError(f"model.factory must be 'module:callable', not '{spec.factory}'")
    try:
        found: object = _module_of(inside(folder, spec.file)) if spec.file else _import(module_name, folder)
    except ImportError as error:
        raise ConfigError(f"model.factory {spec.factory} cannot be imported: {error}") from None
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise ConfigError(f"model.factory {spec.factory}: there is no callable '{attribute}'")
    return found


def _import(name: str, folder: Path) -> ModuleType:
    """Import from what is installed, else from what the archive bundles."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(name)


def _module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load a state dict strictly. ConfigError names the first keys or shapes that do not fit."""
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ConfigError(f"the weights do not fit the network: {' '.join(str(error).split())[:300]}") from None
    if missing or unexpected:
        raise ConfigError(f"the weights do not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}")
