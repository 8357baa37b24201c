"""An exported tail that computes the token it reads, and no others.

The heads of most vision transformers read one token of the last block, whose MLP computes all of them. Here the token
is selected before every operator that treats tokens alike, instead of after it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten
LINEAR, SELECT, PERMUTE, RESHAPE = aten.linear.default, aten.select.int, aten.permute.default, aten.reshape.default
TRANSPOSE, VIEW = aten.transpose.int, aten.view.default
EACH_NUMBER = (  # operators of numbers at the same place, or of one number
    *(aten.gelu.default, aten.relu.default, aten.silu.default, aten.tanh.default, aten.clone.default),
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
)


def read_one_token(tail: fx.GraphModule) -> fx.GraphModule | None:
    """Return a tail with the same scores, and fewer products where nothing else reads all tokens.

    None: it reads no single token behind a product. Shapes are those that torch.export leaves at the nodes. Nothing is
    verified here.
    """
    graph = copy.deepcopy(tail.graph)
    selections = [node for node in graph.nodes if node.target is SELECT]
    saved = sum(_select_sooner(graph, node) for node in selections)
    if not saved:
        return None
    for node in list(graph.nodes):
        if node.target is LINEAR:
            _reorder_later(graph, node)
        elif node.target is VIEW:  # of memory whose order may be another now
            node.target = RESHAPE
    graph.eliminate_dead_code()
    return fx.GraphModule(tail, graph)


def _select_sooner(graph: fx.Graph, node: fx.Node) -> int:
    """Replace a selection by what makes the same from selections of the operands; return how many products that cuts.

    Where it cuts none the selection stays where it is.
    """
    source, axis, index = _arguments(node)[:3]
    axes = len(_shape(source))
    if not axes or not isinstance(index, int):
        return 0
    with graph.inserting_before(node):
        moved = _Moved(graph)
        selected = moved.select(source, axis % axes, index)
    if moved.products:
        selected.meta = dict(node.meta)
        node.replace_all_uses_with(selected)
    return moved.products


class _Moved:
    """Selections that have moved up, each made once."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._selected: dict[tuple[fx.Node, int, int], fx.Node] = {}
        self.products = 0  # that compute less now

    def select(self, node: fx.Node, axis: int, index: int) -> fx.Node:
        """Return a node whose value is ``node``'s at one place of an axis."""
        place = (node, axis, index)
        if place not in self._selected:
            self._selected[place] = self._computed(node, axis, index) or self._graph.call_function(
                SELECT, (node, axis, index)
            )
        return self._selected[place]

    def _computed(self, node: fx.Node, axis: int, index: int) -> fx.Node | None:
        """Return the selection computed from selections of the operands.

        None: the operator mixes what it reads, or its shape is not known.
        """
        target, args, last = node.target, _arguments(node), len(_shape(node)) - 1
        if last < 0:
            return None
        if target in EACH_NUMBER:
            operands = [self._operand(arg, axis - last - 1, index) for arg in args]
            return self._call(node, operands)
        is_norm = target is aten.layer_norm.default and axis <= last - len(args[1])
        is_product = target is LINEAR and axis < last
        if is_norm or is_product:
            self.products += is_product
            operands = [self.select(args[0], axis, index), *args[1:]]
            return self._call(node, operands)
        if target in (TRANSPOSE, PERMUTE):
            return self._permuted(node, axis, index)
        if target in (VIEW, RESHAPE):
            return self._reshaped(node, axis, index)
        return None

    def _call(self, node: fx.Node, operands: list[Any]) -> fx.Node:
        return self._graph.create_node("call_function", node.target, tuple(operands), dict(node.kwargs))

    def _operand(self, operand: Any, axis: int, index: int) -> Any:
        """Return an operand at one place of an axis that is counted from the last, -1; numbers have no axes."""
        shape = _shape(operand) if isinstance(operand, fx.Node) else ()
        if -axis > len(shape):
            return operand
        is_spread = str(shape[axis]) == "1"  # over all places
        return self.select(operand, len(shape) + axis, 0 if is_spread else index)

    def _permuted(self, node: fx.Node, axis: int, index: int) -> fx.Node:
        order = _order(node)
        selected = self.select(_arguments(node)[0], order[axis], index)
        left = [place - (place > order[axis]) for place in order if place != order[axis]]
        return selected if left == sorted(left) else self._graph.call_function(PERMUTE, (selected, left))

    def _reshaped(self, node: fx.Node, axis: int, index: int) -> fx.Node | None:
        """Return None where the axis was part of another one before."""
        operand, sizes = _arguments(node)
        before, after = _shape(operand), _shape(node)
        for place, size in enumerate(before):
            if str(size) == str(after[axis]) and str(math.prod(before[:place])) == str(math.prod(after[:axis])):
                left = [size for number, size in enumerate(sizes) if number != axis]
                return self._graph.call_function(RESHAPE, (self.select(operand, place, index), left))
        return None


def _reorder_later(graph: fx.Graph, node: fx.Node) -> None:
    """Put a product before the reordering of its rows: torch multiplies rows that lie apart far more slowly."""
    source, *weights = _arguments(node)
    order = _order(source)
    if not order or order[-1] != len(order) - 1:
        return
    with graph.inserting_before(node):
        product = graph.call_function(LINEAR, (_arguments(source)[0], *weights), dict(node.kwargs))
        node.replace_all_uses_with(graph.call_function(PERMUTE, (product, order)))


def _order(node: fx.Node) -> list[int]:
    """Return which axis of its operand each axis of a reordered tensor is; none: it is no such tensor, or not known."""
    args = _arguments(node)
    if node.target is PERMUTE:
        return [axis % len(args[1]) for axis in args[1]]
    order = list(range(len(_shape(node)))) if node.target is TRANSPOSE else []
    if order:
        one, other = (axis % len(order) for axis in args[1:3])
        order[one], order[other] = order[other], order[one]
    return order


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _shape(node: fx.Node) -> tuple[Any, ...]:
    """Return the sizes of a node's value; none: it is a number, or not known."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()
