"""Exported programs (torch.export, .pt2): a classifier without its model code.

A program is a flat list of operators with no modules to hook. An identity module is put behind a
tensor to make it one that can be watched, and cut, like any module's output.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import fx, nn

from camserve.errors import ConfigError, first_line
from camserve.network.program_file import read_program
from camserve.values import InputShape

SUFFIX = ".pt2"
PREFIX = "at."  # of the names of watchable tensors: at.relu_16
HOW_TO_EXPORT = (
    "torch.export.save(torch.export.export(model.eval(), (torch.randn(2, C, H, W),), "
    "dynamic_shapes=({0: torch.export.Dim('n', min=1, max=64)},)), 'model.pt2')"
)


def load_program(path: Path, layers: Collection[str] | None, shape: InputShape) -> nn.Module:
    """Load a program for inputs of ``shape`` and make the named tensors watchable; None: all that may have positions.

    ConfigError: the file is no program of this torch, may run code, has no such tensor, or takes one batch size only.
    """
    try:
        module = read_program(path).module()
    except ConfigError:
        raise
    except Exception as error:
        first = first_line(error)
        raise ConfigError(f"{path.name} is no exported program that torch {torch.__version__} reads: {first}") from None
    # A plain module with the same operators: an exported one refuses to be switched to eval mode.
    network = fx.GraphModule(module, module.graph)
    spots = [node for node in network.graph.nodes if _has_positions(node)]
    known = {PREFIX + node.name: node for node in spots}
    for name in known if layers is None else layers:
        if name not in known:
            raise ConfigError(f"{path.name} has no tensor '{name}' with positions; the last is '{list(known)[-1]}'")
        _make_watchable(network, known[name], name)
    network.graph.lint()
    network.recompile()
    _check_batches(network, path, shape)
    return network


def _has_positions(node: fx.Node) -> bool:
    shape = getattr(node.meta.get("val"), "shape", ())
    return node.op == "call_function" and (len(shape) == 4 or (len(shape) == 3 and min(map(_side, shape[1:])) > 1))


def _side(side: object) -> int:
    return side if isinstance(side, int) else 2  # a symbolic side is as long as the input makes it


def _make_watchable(network: fx.GraphModule, node: fx.Node, name: str) -> None:
    network.add_submodule(name, nn.Identity())
    with network.graph.inserting_after(node):
        watched = network.graph.call_module(name, (node,))
    node.replace_all_uses_with(watched, delete_user_cb=lambda user: user is not watched)


def _check_batches(network: fx.GraphModule, path: Path, shape: InputShape) -> None:
    try:
        with torch.inference_mode():
            for rows in (1, 3):
                network(torch.zeros(rows, *shape))
    except Exception as error:
        first = first_line(error)
        channels, height, width = shape
        raise ConfigError(
            f"{path.name} does not take batches of any length of {channels} x {height} x {width} pictures ({first}); "
            f"export it with a dynamic first dimension: {HOW_TO_EXPORT}"
        ) from None
