"""A loaded network brought into the form in which it runs soonest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from camserve.attribution.capture import Tail
from camserve.attribution.linear_head import LinearHead
from camserve.errors import CompilationUnavailable, ConfigError
from camserve.fast.closed_form import find_closed_form
from camserve.fast.compiled import TAIL, TRUNK, name_machine, read_halves, write_halves
from camserve.fast.fold import fold
from camserve.fast.packing import can_pack, pack, packable
from camserve.fast.split import example, split
from camserve.fast.zero_rows import find_token_backward
from camserve.files import inside, sha256
from camserve.network.output import ScoringNetwork, device_of_network
from camserve.network.precision import DTYPES, cast, full_precision
from camserve.settings import CompiledSpec, RuntimeSpec, Settings
from camserve.values import InputShape, Layer


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to be asked, and what is known of it after each target layer."""

    network: nn.Module  # (N, C, H, W) pixels -> (N, C) scores before softmax
    tails: Mapping[str, Tail]  # by layer name


def prepare(
    network: ScoringNetwork,
    layers: Sequence[Layer],
    shape: InputShape,
    runtime: RuntimeSpec,
    heads: Mapping[str, LinearHead],
    compiled: Path | None = None,
) -> Prepared:
    """Return a frozen float32 network, which is changed in place, in the form in which it runs soonest.

    What ``layers`` give stays the same, but for rounding; ``heads`` are the linear heads known by layer name, and
    ``compiled`` is a folder of compiled files that ``check_compiled`` has passed. CompilationUnavailable: they cannot
    be loaded here.
    """
    # What follows a layer may depend on a context: a shortcut would hold for one alone.
    plain = layers if network.score is None else ()
    tails = {layer.name: _find_tail(network, layer, shape, heads.get(layer.name)) for layer in plain}
    rewrite(network, layers, shape, runtime)
    if compiled is None:
        return Prepared(network, tails)
    return Prepared(read_halves(network, layers[0], compiled), without_watched(tails))


def _find_tail(network: nn.Module, layer: Layer, shape: InputShape, head: LinearHead | None) -> Tail:
    shortcut = find_closed_form(network, layer, shape, head) or find_token_backward(network, layer, shape)
    return Tail(head, shortcut)


def without_watched(tails: Mapping[str, Tail]) -> dict[str, Tail]:
    """Return the tails for a network whose exported tail has no modules, so that no hidden layer can be watched."""
    return {
        name: Tail(tail.head) if tail.backward is not None and tail.backward.watched else tail
        for name, tail in tails.items()
    }


@full_precision()
def rewrite(network: ScoringNetwork, layers: Sequence[Layer], shape: InputShape, runtime: RuntimeSpec) -> None:
    """Fold batch normalisation, shorten numbers and pack weights of a frozen float32 network, in place."""
    dtype = DTYPES[runtime.precision]
    device = device_of_network(network)
    pixels = example(shape, torch.float32, device)
    if not runtime.channels_last:
        pixels = pixels.contiguous()
    packs = runtime.mode == "eager" and runtime.channels_last and can_pack(dtype, device)
    kept = {layer.name for layer in layers}
    if dtype != torch.float32:  # packed weights keep an exact bias; elsewhere a folded one would be rounded
        exact = packable(network, layers, pixels) if packs else {}
        kept |= {name for name, _ in network.named_modules() if f"{name}.weight" not in exact}
    fold(network, kept, pixels)
    biases = packable(network, layers, pixels) if packs else {}
    cast(network, dtype)
    if runtime.channels_last:
        network.to(memory_format=torch.channels_last)
    pack(network, biases, pixels.to(dtype))


def write_compiled(network: ScoringNetwork, settings: Settings, device: torch.device, folder: Path) -> CompiledSpec:
    """Compile a frozen float32 network, which is changed in place, into ``folder``.

    CompilationUnavailable: it cannot be compiled on this machine.
    """
    rewrite(network, settings.layers, settings.input.shape, settings.runtime)
    pixels = example(settings.input.shape, DTYPES[settings.runtime.precision], device)
    write_halves(*split(network, settings.layers[0], pixels), pixels, folder)
    return CompiledSpec(name_machine(device), sha256(folder / TRUNK), sha256(folder / TAIL))


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
    if (here := name_machine(device)) != spec.machine:
        raise CompilationUnavailable(f"it was compiled for {spec.machine}, and this is {here}")
