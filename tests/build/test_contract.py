"""A network whose answers depend on chance or on neighbours is not served."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.build.trial.contract import check_rows, takes_channels_last
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from model_file import quiet
from odd_networks import Odd
from small_networks import CLASSES, NETWORKS, pictures, settle


class Flattened(nn.Module):
    """A convolution, and view() in place of flatten(): the networks of many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.conv(pixels).view(len(pixels), -1))


def centred(scores: Tensor) -> Tensor:
    return scores - scores.mean(dim=0)


def without_statistics() -> nn.Module:
    network = Odd()
    network.features.append(nn.BatchNorm2d(6, track_running_stats=False))
    return settle(network)


REFUSED = {
    "dropout": (Odd(functional.dropout), "two runs on the same pictures give different scores"),
    "batch in the scores": (Odd(centred), "a picture's scores depend on the pictures beside it: each"),
    "batch statistics": (without_statistics(), r"beside it \(features.2 normalise over the batch"),
    "softmax over the batch": (Odd(lambda scores: scores.softmax(dim=0)), "depend on the pictures beside it"),
}


def test_a_network_that_mixes_rows_or_rolls_dice_is_refused():
    for network, message in REFUSED.values():
        with pytest.raises(ConfigError, match=message):
            check_rows(ScoringNetwork(settle(network)), pictures())


def test_rounding_that_a_network_amplifies_is_no_mixing_of_rows():
    class Rounded(Odd):
        """Sums a single picture in another order than a batch, as libraries do, and takes the difference large."""

        def forward(self, pixels):
            scores = super().forward(pixels)
            noise = torch.finfo(scores.dtype).eps * len(pixels)
            return scores + 1e4 * noise

    network = settle(Rounded())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_rows(ScoringNetwork(network), pictures())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_that_keeps_rows_apart_passes():
    for build in NETWORKS.values():
        check_rows(ScoringNetwork(build().network), pictures())


def test_view_behind_a_convolution_is_served_without_channels_last():
    lines = []
    assert not takes_channels_last(ScoringNetwork(settle(Flattened())), pictures(), lines.append)
    assert lines[0].startswith("runtime.channels_last: false")
    assert takes_channels_last(ScoringNetwork(settle(Odd())), pictures(), quiet)


def test_a_network_that_reads_memory_in_its_order_is_served_without_channels_last():
    class ByMemory(Odd):
        def forward(self, pixels):
            return super().forward(pixels * (2 if pixels.is_contiguous() else 1))

    assert not takes_channels_last(ScoringNetwork(settle(ByMemory())), pictures(), quiet)
    assert torch.equal(ScoringNetwork(settle(ByMemory()))(pictures()), settle(Odd())(2 * pictures()))
