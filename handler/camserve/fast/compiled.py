"""The trunk of a network as native code, made by AOTInductor; its tail as an exported program.

Both are files, made when an archive is built or when it is loaded, and used only on a machine of the
kind that they were made on.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from camserve.errors import CompilationUnavailable, first_line
from camserve.fast.packing import ONEDNN, can_pack, order
from camserve.fast.split import MOST_ROWS, Split
from camserve.network.output import ScoringNetwork
from camserve.values import Layer

BATCHES = (1, 8)  # lengths that stand for all
TRUNK, TAIL = "trunk.pt2", "tail.pt2"
# Weights become constants, and the number of threads that of the worker, not that of the builder.
OPTIONS = {"freezing": True, "cpp.dynamic_threads": True}


def machine(device: torch.device) -> str:
    """Return what compiled code depends on: torch's version and the processor, down to its instruction set."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    known = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:8]
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()} {known}"


def write_halves(trunk: fx.GraphModule, tail: fx.GraphModule, pixels: Tensor, folder: Path) -> None:
    """Compile the trunk and export the tail into ``folder``; ``pixels`` are those that the network was split with.

    CompilationUnavailable: this torch cannot, or there is no C++ compiler.
    """
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    try:
        with torch.no_grad():
            program = torch.export.export(trunk, (pixels,), dynamic_shapes=({0: rows},))
            with _packing():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(folder / TRUNK), inductor_configs=OPTIONS
                )
            program = torch.export.export(tail, trunk(pixels), dynamic_shapes=_dynamic(tail))
            torch.export.save(program, folder / TAIL)
    except Exception as error:
        first = first_line(error)
        raise CompilationUnavailable(
            f"torch {torch.__version__} cannot compile the network ({first}); is g++ installed?"
        ) from None


@contextmanager
def _packing() -> Iterator[None]:
    """Have TorchInductor pack the weights of convolutions into what it compiles for batches of any length.

    By itself it does so for batches of one length only. Weights whose order depends on the length or on the number of
    threads stay as they are, for these are not known yet. A torch that does this elsewhere is left alone.
    """
    fusion: Any = importlib.import_module("torch._inductor.fx_passes.mkldnn_fusion")
    names = ("has_free_symbols", "optimization_hint", "_get_mkldnn_device_op")
    if not can_pack(torch.float32, torch.device("cpu")) or not all(hasattr(fusion, name) for name in names):
        yield
        return
    open_size, hint, kind = fusion.has_free_symbols, fusion.optimization_hint, type(fusion._get_mkldnn_device_op("cpu"))
    pack_one = kind.pack_conv_weight

    def pack_if_stable(
        device: Any, graph: fx.Graph, transposed: bool, weight: fx.Node, given: Sequence[Any], size: Sequence[Any]
    ) -> fx.Node:
        sides = [hint(side) if open_size(side) else side for side in size[1:]]
        if transposed or not _is_stable(weight.meta["val"], given, sides):
            return weight
        packed: fx.Node = pack_one(device, graph, transposed, weight, given, [BATCHES[-1], *sides])
        return packed

    fusion.has_free_symbols = lambda value: False if isinstance(value, torch.Size) else open_size(value)
    kind.pack_conv_weight = pack_if_stable
    try:
        yield
    finally:
        fusion.has_free_symbols, kind.pack_conv_weight = open_size, pack_one


def _is_stable(weight: Tensor, given: Sequence[Any], sides: Sequence[int]) -> bool:
    """Say whether weights of this shape and type lie in one order for all batches and numbers of threads."""
    empty, threads = torch.empty(weight.shape, dtype=weight.dtype), torch.get_num_threads()
    orders = set()
    try:
        for count in {1, threads, os.cpu_count() or 1}:
            torch.set_num_threads(count)
            for rows in BATCHES:
                orders.add(order(ONEDNN._reorder_convolution_weight(empty, *given, [rows, *sides])))
    finally:
        torch.set_num_threads(threads)
    return len(orders) == 1


def _dynamic(tail: fx.GraphModule) -> tuple[dict[int, Any], ...]:
    """Name, for each input of the tail, the axes that grow with the batch."""
    shapes = [node.meta["val"].shape for node in tail.graph.nodes if node.op == "placeholder"]
    return tuple(
        {axis: torch.export.Dim.AUTO for axis, side in enumerate(shape) if not isinstance(side, int)}
        for shape in shapes
    )


def read_halves(whole: ScoringNetwork, layer: Layer, folder: Path) -> Split:
    """Load what ``write_halves`` wrote. CompilationUnavailable: this torch cannot."""
    try:
        trunk = torch._inductor.aoti_load_package(str(folder / TRUNK))
        tail = torch.export.load(str(folder / TAIL)).module()
    except Exception as error:
        first = first_line(error)
        raise CompilationUnavailable(f"torch {torch.__version__} cannot load the compiled network: {first}") from None
    return Split(whole, trunk, tail, layer)
