"""An exported tail whose linear layers are modules again."""

import torch
from torch import fx, nn

from camserve.fast.tail_layers import with_layers
from camserve.network.hooks import calls_of


class Products(nn.Module):
    """With a bias and without, with one weight for two products, and with a weight that is computed."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3, bias=False)

    def forward(self, values):
        aten = torch.ops.aten
        hidden = aten.relu.default(aten.linear.default(values, self.first.weight, self.first.bias))
        twice = aten.linear.default(values, self.first.weight)
        mixed = aten.linear.default(hidden, aten.mul.Tensor(self.last.weight, 2))
        return mixed + aten.linear.default(hidden + twice, self.last.weight)


def test_a_product_with_a_weight_is_a_module_and_gives_the_same():
    torch.manual_seed(0)
    tail = fx.GraphModule(Products(), fx.Tracer().trace(Products()))
    made, values = with_layers(tail), torch.randn(2, 4)
    layers = {name: module for name, module in made.named_modules() if isinstance(module, nn.Linear)}
    with calls_of(layers) as calls:
        assert torch.equal(made(values), tail(values))
    assert [(tuple(layers[call.name].weight.shape), layers[call.name].bias is None) for call in calls] == [
        ((6, 4), False),
        ((6, 4), True),
        ((3, 6), True),
    ]
    assert layers[calls[0].name].weight.data_ptr() == layers[calls[1].name].weight.data_ptr()
    assert not any(parameter.requires_grad for layer in layers.values() for parameter in layer.parameters())
    assert [node.op for node in with_layers(made).graph.nodes] == [node.op for node in made.graph.nodes]
