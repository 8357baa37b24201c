"""One watched forward pass: the trunk builds no graph, the tail can be run again, the network comes back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from architectures import resnet
from camserve.attribution.capture import Capture, Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.grid import off_grid, on_grid
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError
from camserve.fast.closed_form import find_closed_form
from camserve.values import Layer
from small_networks import (
    CLASSES,
    SHAPE,
    Small,
    deep,
    objectives_for,
    pictures,
    pooled,
    settle,
    watch,
)


def graphs(small: Small, tail: Tail | None = None) -> dict[str, bool]:
    """Which modules' outputs are in an autograd graph during a watched forward pass."""
    found: dict[str, bool] = {}
    for name, module in small.network.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output.requires_grad}))
    watch(small, pictures(1), tail)
    return found


def test_only_the_tail_builds_a_graph() -> None:
    found = graphs(deep())
    assert not any(found[f"features.{index}"] for index in range(6))
    assert all(found[f"classifier.{index}"] for index in range(5))


def test_a_layer_whose_gradients_need_no_graph_gets_none() -> None:
    small = pooled()
    head = find_linear_head(small.network, small.layer, SHAPE)
    assert head is not None
    assert any(graphs(small, Tail(head)).values())  # what is true of a tail makes nothing faster by itself
    small = pooled()
    assert not any(graphs(small, Tail(head, find_closed_form(small.network, small.layer, SHAPE, head))).values())


def test_two_layers_of_one_pass_get_their_own_gradients_and_tapes() -> None:
    network, objectives = resnet(), objectives_for((0, 2))
    layers = (Layer("layer2"), Layer("layer4"))
    with Capture(network, layers) as capture:
        both = capture.forward(pictures(1), tape=True)
    for output, layer in zip(both, layers):
        alone = watch(Small(network, layer), pictures(1), tape=True)
        assert torch.equal(output.activations, alone.activations)
        assert torch.allclose(output.gradients(objectives), alone.gradients(objectives))
        assert torch.equal(output.rescore(-output.activations), alone.rescore(-output.activations))


class Shared(nn.Module):
    """One ReLU called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.last = nn.Linear(3, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        twice = self.relu(self.relu(pixels) - 1)
        return self.last(self.relu(twice - 1).mean(dim=(2, 3)))


def test_the_call_of_a_shared_module_is_counted() -> None:
    for call in range(3):
        output = watch(Small(settle(Shared()), Layer("relu", call=call)), pictures(1))
        assert torch.allclose(output.activations, (pictures(1) - call).clamp(min=0)), call


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no module named 'features\.9'"):
        watch(Small(deep().network, Layer("features.9")), pictures(1))
    with pytest.raises(ConfigError, match="'features' ran 1 times in a forward pass, not 2"):
        watch(Small(deep().network, Layer("features", call=1)), pictures(1))


LAYOUTS: Mapping[Layer, tuple[tuple[int, ...], tuple[int, ...]]] = {
    Layer(""): ((2, 3, 4, 5), (0, 0, 0, 1)),
    Layer("", "NHWC"): ((2, 4, 5, 3), (0, 0, 1, 0)),
    Layer("", "NLC", 2, (4, 5)): ((2, 22, 3), (0, 3, 0)),
}


def test_every_layout_lies_on_the_grid_and_goes_back(subtests: pytest.Subtests) -> None:
    for layer, (shape, second) in LAYOUTS.items():
        with subtests.test(layer.layout):
            output = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
            grid = on_grid(output, layer)
            assert grid.shape == (2, 3, 4, 5)
            assert torch.equal(off_grid(grid, layer, output), output)
            assert grid[0, 0, 0, 1] == output[second]


def condition(network: nn.Module) -> list[object]:
    return [
        [(module.training, len(module._forward_hooks)) for module in network.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        [value.tolist() for value in network.state_dict().values()],
        torch._C._len_torch_dispatch_stack(),
        torch.is_grad_enabled(),
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("tape", [False, True])
def test_the_network_is_given_back(fails: bool, tape: bool) -> None:
    small = deep()
    small.network.features.train()
    next(small.network.parameters()).requires_grad_(False)
    if fails:
        small.network.classifier[4] = nn.Linear(1, 1)
    before = condition(small.network)
    try:
        watch(small, pictures(1), tape=tape).gradients(Objectives.weighing([0], torch.eye(CLASSES)[[0]]))
        assert not fails
    except RuntimeError:
        assert fails
    assert condition(small.network) == before


class Wipes(nn.Module):
    """A tail that writes over the activation when it has been read."""

    def forward(self, features: Tensor) -> Tensor:
        means = features.mean(dim=(2, 3))
        features.mul_(0)
        return means


def test_an_activation_is_kept_as_it_was_where_the_tail_writes_into_it() -> None:
    small = Small(nn.Sequential(settle(nn.Conv2d(3, CLASSES, 8, 8)), Wipes()), Layer("0"))
    head = find_linear_head(small.network, small.layer, SHAPE)
    for tail in (
        None,
        None if head is None else Tail(head, find_closed_form(small.network, small.layer, SHAPE, head)),
    ):
        assert torch.equal(watch(small, pictures(2), tail).activations, small.network[0](pictures(2)))
