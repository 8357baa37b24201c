"""The layer that a recipe should name for the method attention, where the one that is found has none behind it."""

import pytest
import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.probe import attended, check_layer, find_layer
from camserve.build.probe.attended import find_attended, name_attended
from camserve.fast.export import example
from camserve.fast.split import Split, split
from library_networks import TIMM, TV


@pytest.mark.parametrize(
    ("kind", "expected"), [(TV["swin"], "features.3.0"), (TIMM["mean of tokens"], "blocks.0"), (TIMM["mixer"], None)]
)
def test_the_last_layer_with_attention_behind_it_is_named(kind, expected):
    network, shape = kind.scoring(), (3, *kind.size)
    assert find_attended(network, shape) == expected
    if expected is None:
        assert name_attended(network, shape) == ""
        return
    assert name_attended(network, shape) == f", 'layer: {expected}' as the last of them"
    layer = check_layer(network, expected, shape)
    assert layer.grid == find_layer(network, shape).grid
    with Capture(network, (layer,)) as capture:
        (output,) = capture.forward(torch.randn(1, *shape, generator=torch.Generator().manual_seed(2)))
        assert METHODS["attention"].run(output, Objectives.of_top_classes(output.scores)).any()


def test_not_all_layers_of_a_deep_network_are_tried(monkeypatch):
    kind = TV["swin"]
    monkeypatch.setattr(attended, "MOST_TRIED", 1)
    assert find_attended(kind.scoring(), (3, *kind.size)) is None


@pytest.mark.server
def test_the_layer_is_named_of_a_network_whose_trunk_is_compiled():
    kind = TIMM["mean of tokens"]
    network, shape = kind.scoring().requires_grad_(False), (3, *kind.size)
    layer = find_layer(network, shape)
    halved = Split(network, *split(network, layer, example(shape, torch.float32, torch.device("cpu"))), layer)
    assert find_attended(halved, shape) == "blocks.0"


class Grainy(nn.Module):
    """Beside its tokens it reads how much neighbouring pixels differ, which is much in noise and little in photos."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        scores = self.network(pixels)
        grain = pixels.diff(dim=3).square().mean(dim=(1, 2, 3))
        return scores + 10 * grain[:, None] * torch.arange(scores.shape[1])


def test_layers_are_judged_on_corners_of_photos_where_there_are_any():
    kind = TIMM["mean of tokens"]
    network, (height, width) = Grainy(kind.scoring().classifier), kind.size
    photo = (torch.linspace(-2, 2, height)[:, None] * torch.linspace(-2, 2, width)).expand(1, 3, -1, -1)
    assert find_attended(network, (3, height, width)) is None
    assert find_attended(network, (3, height, width), photo) == "network.blocks.0"
