"""A network cut in two at its target layer: a trunk that can be compiled, and a tail that stays differentiable.

The target tensor is found in the exported program by its values. What depends on it is the tail; all the rest is the
trunk.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from camserve.attribution.capture import Capture
from camserve.attribution.objectives import Objectives
from camserve.errors import CamserveError, CompilationUnavailable, ConfigError
from camserve.fast.export import export_network
from camserve.fast.tail_layers import with_layers
from camserve.fast.token_tail import read_one_token
from camserve.network.hooks import calls_of
from camserve.network.output import ROUNDING, ScoringNetwork
from camserve.network.precision import full_precision
from camserve.values import Layer

ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod)

# Norm of the difference, of the norm, on noise, for which no int8 trunk is calibrated: Lite0's is 0.47 off, and
# MobileNetV2's in bf16 0.05. This finds what is wrong altogether (zeros are 1 off), and the self-test the rest.
TOLERANCES = {"fp32": 1e-3, "bf16": 0.15, "int8": 0.8}

Trunk = Callable[[Tensor], tuple[Tensor, ...]]


class Absent(nn.Module):
    """Stands for a network that nothing asks, and that was not loaded."""

    def forward(self, _pixels: Tensor) -> Any:
        """Refuse: a ConfigError."""
        raise ConfigError("this worker has not loaded the eager network, which alone gives gradients of the pixels")


class Split(nn.Module):
    """A network that runs as a trunk and a tail: (N, C, H, W) pixels to (N, C) scores.

    Between them lies a module that bears the target layer's name and gives what that layer gave.
    """

    def __init__(self, whole: nn.Module, trunk: Trunk, tail: fx.GraphModule, layer: Layer) -> None:
        """Join ``trunk``, pixels to (activation, what else the tail needs), and ``tail``, these to scores.

        ``whole`` is the network itself: it runs where gradients with respect to the pixels are asked for.
        """
        super().__init__()
        self.whole = whole
        self.trunk = trunk
        self.tail = with_layers(tail)
        self.cut = nn.Identity()
        self._layer = layer

    def forward(self, pixels: Tensor) -> Any:
        """Return the scores (N, C)."""
        if pixels.requires_grad:
            return self.whole(pixels)
        with torch.no_grad():
            activation, *others = self.trunk(pixels)
        for _ in range(self._layer.call):
            self.cut(activation)  # stands for the earlier calls of the module
        return self.tail(self.cut(activation), *others)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Name the place of the cut as the network named its layer."""
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            yield (self._layer.name if module is self.cut else name), module


@full_precision()
def split(
    network: ScoringNetwork, layer: Layer, pixels: Tensor, shortens: bool = True
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a frozen network in eval mode at one call of one module; ``pixels`` as from ``example``.

    Trunk and tail, as for ``Split``, are verified: activation, scores and gradients are those of the network. With
    ``shortens``, a tail that reads one token computes no others. CompilationUnavailable: the network cannot be exported
    with a batch of any length, or cut there.
    """
    module = export_network(network, pixels)
    expected = _observe(network, layer, pixels)
    for target in reversed(_places(module, network, layer, pixels)):
        try:
            trunk, tail = _halves(module, target)
        except CompilationUnavailable:
            continue
        for form in (read_one_token(tail) if shortens else None, tail):
            if form is not None and _gives(expected, Split(network, trunk, form, layer), layer, pixels):
                return trunk, form
    raise CompilationUnavailable(f"the exported program has no tensor that does what '{layer.name}' does")


def _gives(expected: tuple[Tensor, ...], halved: Split, layer: Layer, pixels: Tensor) -> bool:
    """Whether the halves run, and what is observed of them is what is expected."""
    try:
        found = _observe(halved, layer, pixels)
    except (CamserveError, RuntimeError):
        return False
    tolerance = ROUNDING[pixels.dtype]
    return all(
        truth.shape == now.shape and float((truth - now).abs().max()) <= tolerance * float(truth.abs().max())
        for truth, now in zip(expected, found)
    )


@full_precision()
def check_halves(network: ScoringNetwork, halved: Split, layer: Layer, pixels: Tensor, precision: str) -> None:
    """Refuse halves whose activation, scores or gradients are not those of the network (CompilationUnavailable)."""
    found = _observe(halved, layer, pixels)
    for name, truth, now in zip(("activation", "score", "gradient"), _observe(network, layer, pixels), found):
        error = float((now - truth).norm() / truth.norm())
        if not error <= TOLERANCES[precision]:
            raise CompilationUnavailable(f"the {name} of the converted network is {error:.2g} off that of torch")


def _observe(network: nn.Module, layer: Layer, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return activation, scores, and the gradients of a fixed weighting of them."""
    with Capture(network, (layer,)) as capture:
        (output,) = capture.forward(pixels)
        shape = output.scores.shape
        weights = torch.linspace(-1, 1, shape.numel(), device=output.scores.device).reshape(shape)
        objectives = Objectives.weighing(range(shape[0]), weights)
        return output.activations, output.scores, output.gradients(objectives)


def _places(module: fx.GraphModule, network: nn.Module, layer: Layer, pixels: Tensor) -> list[fx.Node]:
    """Return the nodes whose value is the output of the layer, in the order of the program."""
    found: list[fx.Node] = []
    with torch.no_grad(), calls_of({layer.name: dict(network.named_modules())[layer.name]}, copy=True) as calls:
        network(pixels)
        value = calls[layer.call].copy
        assert value is not None
        _Search(module, value, found).run(pixels)
    return found


class _Search(fx.Interpreter):
    """Run a program and note where a value comes out of it."""

    def __init__(self, module: fx.GraphModule, value: Tensor, found: list[fx.Node]) -> None:
        super().__init__(module)
        self._value = value
        self._found = found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor) and result.shape == self._value.shape:
            scale = ROUNDING[self._value.dtype] * float(self._value.abs().max())
            if float((result - self._value).abs().max()) <= scale:
                self._found.append(n)
        return result


def _halves(module: fx.GraphModule, target: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Divide a program into what does not depend on a node's value, and what does."""
    later = _dependants(target)
    crossing = [
        node
        for node in module.graph.nodes
        if node is not target
        and node not in later
        and node.op != "get_attr"
        and any(user in later for user in node.users)
    ]
    tensors = [node for node in crossing if isinstance(node.meta.get("val"), Tensor)]
    trunk, tail = fx.Graph(), fx.Graph()
    places: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node not in later and node.op != "output":
            places[node] = trunk.node_copy(node, places.__getitem__)
    trunk.output(tuple(places[node] for node in (target, *tensors)))
    trunk.eliminate_dead_code()
    _fill_tail(module, tail, target, tensors, later)
    return fx.GraphModule(module, trunk), fx.GraphModule(module, tail)


def _dependants(target: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(target.users)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.users
    return found


def _fill_tail(
    module: fx.GraphModule, tail: fx.Graph, target: fx.Node, tensors: list[fx.Node], later: set[fx.Node]
) -> None:
    places: dict[fx.Node, fx.Node] = {}
    for number, node in enumerate((target, *tensors)):
        places[node] = tail.placeholder(f"value_{number}")
        places[node].meta = dict(node.meta)
    rows = target.meta["val"].shape[0]

    def place(node: fx.Node) -> fx.Node:
        """Weights are looked up again; numbers are computed again from the length of the activation's batch."""
        if node in places:
            return places[node]
        if str(node.meta.get("val")) == str(rows):
            places[node] = tail.call_function(torch.ops.aten.sym_size.int, (places[target], 0))
        elif node.op == "get_attr" or node.target in ARITHMETIC:
            places[node] = tail.node_copy(node, place)
        else:
            raise CompilationUnavailable(f"the tail needs '{node.name}' of the trunk, which is no tensor")
        return places[node]

    for node in module.graph.nodes:
        if node in later:
            places[node] = tail.node_copy(node, place)
            if node.op == "output":
                (scores,) = cast("tuple[fx.Node]", places[node].args[0])
                places[node].args = (scores,)
