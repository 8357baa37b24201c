"""The layer that a recipe should name for the method attention, where the one that is found has none behind it."""

import pytest
import torch

from camserve.attribution.capture import Capture
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.probe import attended, check_layer, find_layer
from camserve.build.probe.attended import find_attended, name_attended
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
