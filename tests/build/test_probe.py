"""The target layer of every kind of classifier is found by running it, and a layer without evidence is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from camserve.attribution.capture import Capture
from camserve.attribution.methods.gradcam import gradcam
from camserve.attribution.objectives import Objectives
from camserve.build.probe import check_layer, find_layer, probe
from camserve.errors import ConfigError
from camserve.values import Layer
from library_networks import KINDS, vit
from odd_networks import Added, Frozen, Latents, Odd, Paired, Sideways, Turned, Twice, convolutional, flat
from small_networks import CLASSES, SHAPE, SIDE, deep, pictures, pooled, settle, tokens
from zoo_archive import MAP_TOLERANCE, plain_gradcam


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_last_layer_with_positions_and_gradient_is_found_and_its_map_is_right(kind):
    torch.manual_seed(0)
    network = kind.scoring()
    shape = (3, *kind.size)
    layer = find_layer(network, shape)
    assert layer == kind.layer
    assert check_layer(network, layer.name, shape) == layer
    pixels = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([1, 3])
    with Capture(network, (layer,)) as capture:
        (output,) = capture.forward(pixels)
        ours = gradcam(output, Objectives.weighing(range(2), torch.eye(output.scores.shape[1])[classes]))
    plain = plain_gradcam(network, layer, pixels, classes)
    assert plain.abs().max() > 0
    assert (ours - plain).abs().max() <= MAP_TOLERANCE * plain.abs().max()


HAND_MADE = {
    "closed form": (lambda: pooled().network, Layer("features", grid=(8, 8))),
    "before pooling": (lambda: deep().network, Layer("features", grid=(7, 7))),
    "shared, called twice": (Twice, Layer("act", grid=(8, 8), call=2)),
    "tuple inside": (Paired, Layer("trunk", grid=(8, 8))),
    "list inside": (lambda: Paired(list), Layer("trunk.conv", grid=(8, 8))),
    "trunk without gradients": (Frozen, Layer("neck", grid=(8, 8))),
    "branches that are added": (Added, Layer("stem", grid=(8, 8))),
    "latents": (Latents, Layer("trunk", grid=(8, 8))),
    "rows and columns swapped": (Turned, Layer("trunk", grid=(8, 8))),
    "channels last": (Sideways, Layer("norm", "NHWC", grid=(8, 8))),
    "one size only": (flat, Layer("features.1", grid=(15, 15))),
    "score maps": (convolutional, Layer("features", grid=(8, 8))),
    "a branch that nobody reads": (Odd, Layer("features", grid=(8, 8))),
}


def test_the_search_runs_the_network_and_reads_no_names():
    for name, (build, layer) in HAND_MADE.items():
        network = settle(build())
        assert find_layer(network, SHAPE) == layer, name
        assert check_layer(network, layer.name, SHAPE) == layer, name
        with Capture(network, (layer,)) as capture:
            (output,) = capture.forward(pictures(2))
            gradients = output.gradients(Objectives.weighing(range(2), torch.eye(CLASSES)[:2]))
        assert gradients.abs().sum(dim=(1, 2, 3)).min() > 0, name


def test_where_there_is_nothing_but_score_maps_they_are_taken():
    network = settle(nn.Sequential(nn.Conv2d(3, CLASSES, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert find_layer(network, SHAPE) == Layer("0", grid=(8, 8))


def test_a_refused_layer_has_its_reason():
    finding = probe(tokens().network, SHAPE)
    reasons = {refusal.name: refusal.reason for refusal in finding.refused}
    assert reasons["heads"] == "its output of shape (N, 5) has no spatial extent"
    assert reasons["encoder.layers.encoder_layer_1"] == "the scores' gradient reaches none of its positions"
    assert finding.layer.name not in reasons


UNFIT = {
    "blocks.1": (
        vit,
        "layer 'blocks.1' carries no evidence: the scores' gradient reaches none of its positions; "
        "'blocks.1.norm1' does",
    ),
    "head": (
        vit,
        "layer 'head' carries no evidence: its output of shape (N, 5) has no spatial extent; 'blocks.1.norm1' does",
    ),
    "pool": (
        Odd,
        "layer 'pool' carries no evidence: its output of shape (N, 6, 1, 1) has no spatial extent; 'features' does",
    ),
    "unused": (Odd, "layer 'unused' carries no evidence: it does not run in a forward pass; 'features' does"),
    "branch": (
        Odd,
        "layer 'branch' carries no evidence: the scores' gradient reaches none of its positions; 'features' does",
    ),
    "norm": (
        Latents,
        "layer 'norm' carries no evidence: the positions of its output do not lie where the picture's do; 'trunk' does",
    ),
    "feature": (Odd, "the network has no module named 'feature'; did you mean 'features'?"),
    "trunk": (
        lambda: Paired(list),
        "layer 'trunk' carries no evidence: its output is a list, not a tensor; 'trunk.conv' does",
    ),
}


def test_a_named_layer_that_shows_nothing_is_refused_with_the_reason():
    for name, (build, message) in UNFIT.items():
        side = 64 if build is vit else SIDE
        with pytest.raises(ConfigError) as refusal:
            check_layer(settle(build()), name, (3, side, side))
        assert str(refusal.value) == message


def test_a_named_layer_may_lie_anywhere_that_evidence_passes():
    network = vit().eval()
    assert check_layer(network, "blocks.0", (3, 64, 64)) == Layer("blocks.0", "NLC", 1, (4, 4))
    assert check_layer(settle(Twice()), "block", SHAPE) == Layer("block", grid=(8, 8), call=1)


def test_untrained_scores_are_not_taken_for_evidence():
    network = settle(Odd())
    nn.init.zeros_(network.fc.weight)
    with pytest.raises(ConfigError, match="scores of two random pictures are equal: are the weights loaded"):
        find_layer(network, SHAPE)


def test_a_network_without_positions_is_refused():
    network = settle(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)))
    with pytest.raises(ConfigError, match="no module of the network has an output whose positions"):
        find_layer(network, SHAPE)


def state(network: nn.Module) -> list[object]:
    modes = [(module.training, len(module._forward_hooks)) for module in network.modules()]
    return [*modes, *((parameter.requires_grad, parameter.grad is None) for parameter in network.parameters())]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_comes_back_as_it_went_in(training):
    network = deep().network.train(training)
    network.classifier.eval()
    network.features[0].requires_grad_(False)
    before, weights = state(network), {name: value.clone() for name, value in network.state_dict().items()}
    layer = find_layer(network, SHAPE)
    assert state(network) == before
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert layer == find_layer(network.eval(), SHAPE)


def test_the_network_comes_back_as_it_went_in_after_an_exception():
    network = deep().network.train()
    before = state(network)
    with pytest.raises(ConfigError, match=r"the network fails on a picture of 40 x 40 pixels: RuntimeError: mat1"):
        find_layer(network, (3, 40, 40))
    assert state(network) == before
