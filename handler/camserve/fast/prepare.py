"""A network brought into the form in which it is to run."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from camserve.errors import CompilationUnavailable, ConfigError
from camserve.fast.compiled import TAIL, TRUNK, machine, read_halves, write_halves
from camserve.fast.fold import fold
from camserve.fast.packing import can_pack, pack, packable
from camserve.fast.split import example, split
from camserve.files import inside, sha256
from camserve.network.output import ScoringNetwork
from camserve.settings import CompiledSpec, RuntimeSpec, Settings
from camserve.values import Layer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def accelerate(network: ScoringNetwork, folder: Path, settings: Settings, device: torch.device) -> nn.Module:
    """Return a prepared network with a compiled trunk if the settings ask for one.

    CompilationUnavailable: that does not work here.
    """
    (layer, *_), mode = settings.layers, settings.runtime.mode
    if mode == "eager":
        return network
    if mode == "aot":
        return read_halves(network, layer, folder)
    with tempfile.TemporaryDirectory(prefix="camserve-compiled-") as made:
        write_compiled(network, settings, device, Path(made))
        return read_halves(network, layer, Path(made))


def write_compiled(network: ScoringNetwork, settings: Settings, device: torch.device, folder: Path) -> CompiledSpec:
    """Compile a prepared network into ``folder``. CompilationUnavailable: it cannot be compiled on this machine."""
    pixels = example(settings.input.size, DTYPES[settings.runtime.precision], device)
    write_halves(*split(network, settings.layers[0], pixels), pixels, folder)
    return CompiledSpec(machine(device), sha256(folder / TRUNK), sha256(folder / TAIL))


def check_compiled(folder: Path, spec: CompiledSpec | None, device: torch.device) -> None:
    """Check an archive's compiled files before anything takes its time.

    CompilationUnavailable: they are for another machine. ConfigError: they are not those that the archive was built
    with.
    """
    if spec is None:
        raise ConfigError("runtime.mode aot needs an archive that was built with it")
    for name, expected in ((TRUNK, spec.trunk_sha256), (TAIL, spec.tail_sha256)):
        if (found := sha256(inside(folder, name))) != expected:
            raise ConfigError(f"{name} has the SHA-256 {found[:12]}..., not {expected[:12]}...")
    if (here := machine(device)) != spec.machine:
        raise CompilationUnavailable(f"it was compiled for {spec.machine}, and this is {here}")


def prepare(network: ScoringNetwork, runtime: RuntimeSpec, layers: tuple[Layer, ...], size: tuple[int, int]) -> None:
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


def _cast(network: ScoringNetwork, dtype: torch.dtype) -> None:
    """Shorten all numbers of a network but those of normalisations: rounding these costs accuracy."""
    exact = [(each, copy.deepcopy(each.state_dict())) for each in network.modules() if isinstance(each, _BatchNorm)]
    network.to(dtype)
    for module, numbers in exact:
        module.float().load_state_dict(numbers)
