"""Contrastive excitation backpropagation, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from by_hand import FIRST, observe, watch_first
from camserve.attribution.methods import METHODS
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.values import Layer
from small_networks import Small, deep, distance, objectives_for, pictures, settle, watch


def test_cmwp_by_hand() -> None:
    # Two units h = (x0 + x1, 3 x1 - x0) of x = (1, 1): h = (2, 2); score 0 = h0 - h1.
    # Winners of the class: all to h0, half each to x0, x1. Of its opposite: all to h1, through x1 alone.
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, 3.0]]))
        network[4].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        network[2].bias.zero_()
    output = watch_first(network, torch.ones(1, 1, 1, 2))
    assert METHODS["cmwp"].run(output, FIRST).tolist() == [[[0.5, -0.5]]]


def test_cmwp_conserves_probability() -> None:
    found = METHODS["cmwp"].run(observe(deep(), pictures(2)), objectives_for((0, 1), (1, 2)))
    assert found.abs().amax(dim=(1, 2)).min() > 1e-3
    assert found.sum(dim=(1, 2)).tolist() == pytest.approx([0.0, 0.0], abs=1e-5)


def test_cmwp_takes_batch_normalisation_into_the_convolution_before_it() -> None:
    torch.manual_seed(0)
    apart = nn.Sequential(
        nn.Identity(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )
    apart[2].running_mean.uniform_(-0.1, 0.1)
    apart[2].running_var.uniform_(0.5, 2)
    with torch.no_grad():
        apart[2].weight.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0]))  # a negative gain turns a channel over
    apart.eval()
    joined = nn.Sequential(apart[0], nn.utils.fuse_conv_bn_eval(apart[1], apart[2]), *apart[3:])
    pixels = pictures(1)[..., :6, :6].abs()
    found = [METHODS["cmwp"].run(watch_first(network, pixels), objectives_for((0, 3))) for network in (apart, joined)]
    assert distance(*found) <= 1e-5


def test_cmwp_divides_a_sum_by_its_parts() -> None:
    # h = (x, 3 x) + (x, x) of x = 1 and score = h0 - h1 / 2; a sum's winners are its parts by size: all come from x.
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.last = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.layer = nn.Identity()

        def forward(self, pixels: Tensor) -> Tensor:
            activations = self.layer(pixels).flatten(1)
            hidden = self.one(activations[:, :1])
            hidden += activations
            return self.last(hidden)

    network = Residual().eval()
    with torch.no_grad():
        network.one.weight.copy_(torch.tensor([[1.0], [3.0]]))
        network.last.weight.copy_(torch.tensor([[1.0, -0.5], [0.0, 0.0]]))
    output = watch(Small(network, Layer("layer")), torch.ones(1, 1, 1, 2))
    # Winners of the class: h0, half from each x0. Of its opposite: h1, 3/4 from x0 and 1/4 from x1.
    assert METHODS["cmwp"].run(output, FIRST).tolist() == [[[1 - 3 / 4, -1 / 4]]]


def test_cmwp_refuses_an_edit_that_it_cannot_follow() -> None:
    class Edits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Identity(), nn.Linear(2, 2)

        def forward(self, pixels: Tensor) -> Tensor:
            activations = self.layer(pixels).flatten(1)
            activations.add_(pixels.flatten(1))
            return self.last(activations)

    output = watch(Small(settle(Edits()), Layer("layer")), torch.ones(1, 1, 1, 2))
    with pytest.raises(ConfigError, match="in-place operators"):
        METHODS["cmwp"].run(output, FIRST)


def test_cmwp_names_the_operator_that_it_has_no_rule_for() -> None:
    small = deep()
    small.network.classifier.insert(0, nn.GELU())
    with pytest.raises(ConfigError, match="no rule for the operator 'gelu'"):
        METHODS["cmwp"].run(observe(small, pictures(1)), objectives_for((0, 0)))


def test_cmwp_draws_the_same_map_behind_the_network_that_is_served() -> None:
    small, objectives = deep(), objectives_for((0, 1))
    served = Small(ScoringNetwork(small.network).eval(), small.layer)
    expected, found = (METHODS["cmwp"].run(watch(network, pictures(1)), objectives) for network in (small, served))
    assert torch.equal(found, expected)
