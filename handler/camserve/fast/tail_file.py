"""A tail as a safetensors file: its weights, and its operators as JSON in the header.

``torch.export.load`` imports torch's compiler, which takes a worker 1.6 s of the processor and 180 MB.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from camserve.errors import CompilationUnavailable, ConfigError, quote
from camserve.network.program_file import ALLOWED, IDENTIFIER, OPERATOR
from camserve.network.weights import read_safetensors

GRAPH = "camserve.graph"  # of the header's metadata
ROOTS = {"torch": torch, "math": math, "_operator": operator}
KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def write_tail_file(tail: fx.GraphModule, path: Path) -> None:
    """Write a frozen tail of operators. CompilationUnavailable: it holds what is no operator of torch, or no number."""
    names = {node: f"n{number}" for number, node in enumerate(tail.graph.nodes)}
    weights: dict[str, Tensor] = {}
    graph = []
    for node in tail.graph.nodes:
        block: dict[str, Any] = {"name": names[node], "op": node.op}
        if node.op == "get_attr":
            weights[names[node]] = _weight(tail, str(node.target))
        elif node.op in ("call_function", "output"):
            block["args"] = _encode(node.args, names)
            block["kwargs"] = {key: _encode(value, names) for key, value in node.kwargs.items()}
        if node.op == "call_function":
            block["target"] = _name_operator(node.target)
        graph.append(block)
    save_file = import_module("safetensors.torch").save_file  # the builder alone has the package
    save_file(weights, path, {GRAPH: json.dumps(graph)})


def _weight(tail: fx.GraphModule, target: str) -> Tensor:
    weight = operator.attrgetter(target)(tail)
    if not isinstance(weight, Tensor):
        raise CompilationUnavailable(f"the tail holds a {type(weight).__name__}, where operators alone can be written")
    return weight.detach().clone(memory_format=torch.contiguous_format)  # safetensors writes no shared memory


def _name_operator(target: Any) -> str:
    is_torch = isinstance(target, torch._ops.OpOverload)
    name = f"torch.ops.{target}" if is_torch else f"{target.__module__}.{target.__name__}"
    if not OPERATOR.fullmatch(name):
        raise CompilationUnavailable(f"the tail needs {quote(name)}, which is no operator of torch")
    return name


def _encode(value: Any, names: Mapping[fx.Node, str]) -> Any:
    if isinstance(value, fx.Node):
        return {"node": names[value]}
    if isinstance(value, (list, tuple)):
        return [_encode(part, names) for part in value]
    if isinstance(value, torch.device):
        return {"device": value.type}
    for kind, made in KINDS.items():
        if isinstance(value, made):
            return {kind: str(value).partition(".")[2]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CompilationUnavailable(f"the tail holds a {type(value).__name__}, where numbers alone can be written")


def read_tail_file(path: Path) -> fx.GraphModule:
    """Return the tail in a file that ``write_tail_file`` wrote; none of it is run.

    ConfigError: it holds more than operators and numbers. KeyError, TypeError or ValueError: it is no such file.
    """
    weights, metadata = read_safetensors(path)
    root, graph = nn.Module(), fx.Graph()
    places: dict[str, fx.Node] = {}
    for block in json.loads(metadata[GRAPH]):
        name = block["name"]
        if block["op"] == "get_attr":
            own = f"weight_{len(places)}"  # torch writes Python with this name
            root.register_parameter(own, nn.Parameter(weights[name], requires_grad=False))
            places[name] = graph.create_node("get_attr", own)
        else:
            places[name] = _read_node(graph, block, places)
    return fx.GraphModule(root, graph)


def _read_node(graph: fx.Graph, block: Mapping[str, Any], places: Mapping[str, fx.Node]) -> fx.Node:
    if block["op"] == "placeholder":
        return graph.placeholder(f"value_{len(places)}")
    args, kwargs = _decode(block["args"], places), block["kwargs"]
    if block["op"] == "output":
        return graph.create_node("output", "output", tuple(args))
    for key in kwargs:
        _require(IDENTIFIER.fullmatch(key), "name", key)
    decoded = {key: _decode(value, places) for key, value in kwargs.items()}
    return graph.call_function(_find_operator(block["target"]), tuple(args), decoded)


def _find_operator(name: str) -> Callable[..., Any]:
    _require(OPERATOR.fullmatch(name), "operator", name)
    root, _, rest = name.partition(".")
    found: Callable[..., Any] = operator.attrgetter(rest)(ROOTS[root])
    return found


def _require(holds: object, what: str, text: str) -> None:
    if not holds:
        raise ConfigError(f"the compiled tail is refused, as it may run code: {what} {quote(text)}; {ALLOWED}")


def _decode(value: Any, places: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(part, places) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, name),) = value.items()
    if kind == "node":
        return places[name]
    if kind == "device":
        return torch.device(name)
    found = getattr(torch, name)
    if not isinstance(found, KINDS[kind]):
        raise ValueError(f"{name} is no {kind}")
    return found
