"""A loaded network brought into the form in which it runs soonest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camserve.attribution.capture import Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.linear_head import LinearHead
from camserve.errors import CompilationUnavailable, ConfigError
from camserve.fast.closed_form import find_closed_form
from camserve.fast.compiled import TAIL, TRUNK, WEIGHTS, convert_trunk, read_halves, write_trunk
from camserve.fast.export import example
from camserve.fast.fold import fold
from camserve.fast.packing import can_pack, pack, packable
from camserve.fast.split import Absent, Split, check_halves, split
from camserve.fast.tail_file import write_tail_file
from camserve.fast.zero_rows import find_token_backward
from camserve.files import inside, sha256
from camserve.measures import Quantised
from camserve.network.output import ScoringNetwork, device_of_network
from camserve.network.precision import cast, dtype_of, full_precision
from camserve.settings import CompiledSpec, RuntimeSpec, Settings
from camserve.values import InputShape, Layer

FILES = (TRUNK, WEIGHTS, TAIL)


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
    be loaded here, or do not give what the network gives.
    """
    # What follows a layer may depend on a context: a shortcut would hold for one alone.
    plain = layers if network.score is None else ()
    if compiled is None:
        tails = find_tails(network, plain, shape, heads)
        rewrite(network, layers, shape, runtime)
        return Prepared(network, tails)
    rewrite(network, layers, shape, runtime)
    halved = read_halves(network, layers[0], runtime.precision, compiled)
    check_halves(
        network, halved, layers[0], example(shape, torch.float32, device_of_network(network)), runtime.precision
    )
    return Prepared(halved, find_tails(halved, plain, shape, heads))


def prepare_halves(layer: Layer, shape: InputShape, precision: str, compiled: Path) -> Prepared:
    """Return a network of mode openvino from its compiled files alone, which nothing here compares with torch's.

    CompilationUnavailable: they cannot be loaded here. Methods that need gradients of the pixels cannot be asked.
    """
    halved = read_halves(Absent(), layer, precision, compiled)
    head = find_linear_head(halved, layer, shape)
    return Prepared(halved, find_tails(halved, (layer,), shape, {} if head is None else {layer.name: head}))


def find_tails(
    network: nn.Module, layers: Sequence[Layer], shape: InputShape, heads: Mapping[str, LinearHead]
) -> dict[str, Tail]:
    """Return by name what is known of a network after each layer; ``heads`` as for ``prepare``."""
    tails = {}
    for layer in layers:
        head = heads.get(layer.name)
        shortcut = find_closed_form(network, layer, shape, head) or find_token_backward(network, layer, shape)
        tails[layer.name] = Tail(head, shortcut)
    return tails


@full_precision()
def rewrite(network: ScoringNetwork, layers: Sequence[Layer], shape: InputShape, runtime: RuntimeSpec) -> None:
    """Fold batch normalisation, shorten numbers and pack weights of a frozen float32 network, in place."""
    dtype = dtype_of(runtime)
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


Quantise = Callable[
    [Any, Split], "tuple[Any, Quantised]"
]  # (openvino.Model, the network with it) -> int8, what it is worth


def write_compiled(
    network: ScoringNetwork, settings: Settings, folder: Path, quantise: Quantise | None = None
) -> CompiledSpec:
    """Convert the trunk of a frozen float32 network, which is changed in place, into ``folder``.

    CompilationUnavailable: it cannot be converted. ConfigError: ``quantise`` refuses what it made.
    """
    layer = settings.layers[0]
    rewrite(network, settings.layers, settings.input.shape, settings.runtime)
    pixels = example(settings.input.shape, torch.float32, device_of_network(network))
    trunk, tail = split(network, layer, pixels)
    model, quantised = convert_trunk(trunk, pixels), None
    if quantise is not None:
        model, quantised = quantise(model, Split(network, trunk, tail, layer))
    write_trunk(model, folder)
    write_tail_file(tail, folder / TAIL)
    trunk_sha256, weights_sha256, tail_sha256 = (sha256(folder / name) for name in FILES)
    return CompiledSpec(trunk_sha256, weights_sha256, tail_sha256, quantised)


def check_compiled(folder: Path, settings: Settings, device: torch.device) -> None:
    """Check an archive's converted files before anything takes its time.

    CompilationUnavailable: the network is to run on a GPU. ConfigError: the files are not those that the archive was
    built with, or not in this precision.
    """
    spec, precision = settings.compiled, settings.runtime.precision
    if spec is None:
        raise ConfigError("runtime.mode openvino needs an archive that was built with it")
    if (spec.quantised is not None) != (precision == "int8"):
        raise ConfigError(
            f"runtime.precision {precision} needs an archive that was built with it: its trunk is another"
        )
    expected = (spec.trunk_sha256, spec.weights_sha256, spec.tail_sha256)
    for name, wanted in zip(FILES, expected):
        if (found := sha256(inside(folder, name))) != wanted:
            raise ConfigError(f"{name} has the SHA-256 {found[:12]}..., not {wanted[:12]}...")
    if device.type != "cpu":
        raise CompilationUnavailable("OpenVINO is for CPUs, and this worker has a GPU")
