"""The trunk of a network as native code, made by AOTInductor; its tail as an exported program.

Both are files of an archive, made when it is built and used only on a machine of the kind that they were made on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from camserve.errors import CompilationUnavailable, ConfigError, first_line
from camserve.fast.split import MOST_ROWS, Split
from camserve.network.output import ScoringNetwork
from camserve.network.program_file import read_program
from camserve.values import Layer

TRUNK, TAIL = "trunk.pt2", "tail.pt2"
# Weights become constants, and the number of threads that of the worker, not that of the builder.
OPTIONS = {"freezing": True, "cpp.dynamic_threads": True}


def name_machine(device: torch.device) -> str:
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


def _dynamic(tail: fx.GraphModule) -> tuple[dict[int, Any], ...]:
    """Name, for each input of the tail, the axes that grow with the batch."""
    shapes = [node.meta["val"].shape for node in tail.graph.nodes if node.op == "placeholder"]
    return tuple(
        {axis: torch.export.Dim.AUTO for axis, side in enumerate(shape) if not isinstance(side, int)}
        for shape in shapes
    )


def read_halves(whole: ScoringNetwork, layer: Layer, folder: Path) -> Split:
    """Load what ``write_halves`` wrote: the trunk is native code, which is run; the tail is not, until it is checked.

    CompilationUnavailable: this torch cannot. ConfigError: the tail may run code.
    """
    try:
        tail = read_program(folder / TAIL).module()
        trunk = torch._inductor.aoti_load_package(str(folder / TRUNK))
    except ConfigError:
        raise
    except Exception as error:
        first = first_line(error)
        raise CompilationUnavailable(f"torch {torch.__version__} cannot load the compiled network: {first}") from None
    return Split(whole, trunk, tail, layer)
