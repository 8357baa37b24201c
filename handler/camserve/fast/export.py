"""A network as a program of torch's operators (torch.export), for a batch of any length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from camserve.errors import CompilationUnavailable, first_line
from camserve.network.output import ScoringNetwork
from camserve.values import InputShape

MOST_ROWS = 64  # of a batch; more are answered group by group


def example(shape: InputShape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return two random pictures (2, C, H, W), in the memory layout of those that are served."""
    pixels = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return pixels.to(device, dtype).contiguous(memory_format=torch.channels_last)


class _Exportable(ScoringNetwork):
    """``ScoringNetwork`` under the names that torch.export expects: those of the modules as they lie in one another."""

    named_modules = nn.Module.named_modules
    get_submodule = nn.Module.get_submodule


def export_network(network: ScoringNetwork, pixels: Tensor) -> fx.GraphModule:
    """Return a frozen network in eval mode as a program for a batch of any length (CompilationUnavailable)."""
    try:
        rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
        exportable = _Exportable(network.classifier, *network.outputs)
        with torch.no_grad():
            program = torch.export.export(exportable, (pixels,), dynamic_shapes=({0: rows},))
        exported: Any = program.run_decompositions({}).module()  # without operators that work in place
    except Exception as error:
        first = first_line(error)
        raise CompilationUnavailable(f"the network cannot be exported by torch {torch.__version__}: {first}") from None
    module = fx.GraphModule(exported, exported.graph)
    for node in reversed(module.graph.nodes):
        if node.op.startswith("call_") and not node.users:  # checks; nothing in such a program has side effects
            module.graph.erase_node(node)
    return module
