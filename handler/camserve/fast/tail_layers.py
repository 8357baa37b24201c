"""The linear layers of an exported tail as modules, whose outputs can be watched as a network's own are."""

from __future__ import annotations

import copy
from operator import attrgetter

from torch import Tensor, fx, nn

from camserve.fast.token_tail import LINEAR


def with_layers(tail: fx.GraphModule) -> fx.GraphModule:
    """Return a tail that gives the same, with a ``torch.nn.Linear`` for each product with a weight."""
    tail = fx.GraphModule(tail, copy.deepcopy(tail.graph))
    for number, node in enumerate(list(tail.graph.nodes)):
        if node.target is LINEAR and all(weight.op == "get_attr" for weight in node.args[1:]):
            name = f"linear_{number}"
            tail.add_submodule(name, _layer(*(attrgetter(str(weight.target))(tail) for weight in node.args[1:])))
            with tail.graph.inserting_before(node):
                node.replace_all_uses_with(tail.graph.call_module(name, node.args[:1]))
            tail.graph.erase_node(node)
    tail.graph.eliminate_dead_code()
    tail.recompile()
    return tail


def _layer(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer.eval()
