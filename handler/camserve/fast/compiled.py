"""The trunk of a network in OpenVINO, and reading it back with its tail.

Both are files of an archive. The builder converts, which takes tens of seconds and torch's exporter; a server reads the
result and compiles it for its own processor, which takes less than one, so that nothing compiled is ever carried.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from camserve.errors import CompilationUnavailable, ConfigError, first_line
from camserve.fast.export import MOST_ROWS
from camserve.fast.split import Split
from camserve.fast.tail_file import read_tail_file
from camserve.values import Layer

TRUNK, WEIGHTS, TAIL = "trunk.xml", "trunk.bin", "tail.safetensors"
DEVICE = "CPU"
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # of what an int8 trunk keeps in floating point


def import_openvino() -> Any:
    """Return the module openvino. CompilationUnavailable: it is not installed here."""
    modules: dict[str, Any] = sys.modules
    modules["openvino_telemetry"] = None  # which the import of openvino sends to its maker with
    try:
        return import_module("openvino")
    except ImportError as error:
        reason = first_line(error)
        raise CompilationUnavailable(f"openvino cannot be imported ({reason}): pip install openvino") from None


class Trunk:
    """What stands before the target layer, compiled: (N, C, H, W) pixels to the tensors that the tail reads.

    ``precision`` is the one it computes in: OpenVINO runs bf16 in float32 where the processor has no bf16.
    """

    def __init__(self, model: Any, precision: str) -> None:
        """Compile an ``openvino.Model`` for as many threads as torch has."""
        openvino = import_openvino()
        self.model = openvino.Core().compile_model(
            model,
            DEVICE,
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                "ENABLE_CPU_PINNING": False,  # every worker would choose the same cores
            },
        )
        computed = self.model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.precision = "fp32" if precision == "bf16" and computed == "f32" else precision

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return what the tail reads."""
        return run_trunk(self.model, pixels)


def run_trunk(compiled: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of an ``openvino.CompiledModel``, copied: its next run overwrites them."""
    rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    results = compiled([rows], share_inputs=True, share_outputs=False)
    return tuple(torch.from_numpy(results[place]) for place in range(len(compiled.outputs)))


def convert_trunk(trunk: fx.GraphModule, pixels: Tensor) -> Any:
    """Return a trunk as an ``openvino.Model`` that reads (N, H, W, C); ``pixels`` are those it was split with.

    CompilationUnavailable: OpenVINO is missing, or does not know one of its operators.
    """
    openvino = import_openvino()
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    try:
        with torch.no_grad():
            program = torch.export.export(trunk, (pixels,), dynamic_shapes=({0: rows},))
            with _unchanged_logs():
                model = openvino.convert_model(program)
        model.reshape([-1, *pixels.shape[1:]])
        layout = openvino.preprocess.PrePostProcessor(model)
        layout.input().tensor().set_layout(openvino.Layout("NHWC"))  # as pixels lie in memory
        layout.input().model().set_layout(openvino.Layout("NCHW"))
        return layout.build()
    except Exception as error:
        raise CompilationUnavailable(f"OpenVINO cannot convert the network: {first_line(error)}") from None


@contextmanager
def _unchanged_logs() -> Iterator[None]:
    """Undo what a conversion that fails leaves behind: a root logger that lets no warning through."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters, root.handlers[:]
    root.filters = filters[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def write_trunk(model: Any, folder: Path) -> None:
    """Write a converted trunk into ``folder``: the same network gives the same bytes."""
    model.set_friendly_name("trunk")  # the given names hold a counter of the process
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    import_openvino().save_model(model, folder / TRUNK, compress_to_fp16=False)


def read_halves(whole: nn.Module, layer: Layer, precision: str, folder: Path) -> Split:
    """Load and compile what ``write_trunk`` and ``write_tail_file`` wrote; ``whole`` as for ``Split``.

    CompilationUnavailable: OpenVINO is missing, or it or torch cannot read them. ConfigError: the tail may run code.
    """
    openvino = import_openvino()
    try:
        tail = read_tail_file(folder / TAIL)
        trunk = Trunk(openvino.Core().read_model(folder / TRUNK), precision)
    except ConfigError:
        raise
    except Exception as error:
        raise CompilationUnavailable(f"the compiled network cannot be loaded: {first_line(error)}") from None
    return Split(whole, trunk, tail, layer)
