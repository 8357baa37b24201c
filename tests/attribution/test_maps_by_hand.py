"""Maps on the layer's own grid, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from by_hand import ACTIVATION, FIRST, WEIGHTS, linear_output, observe
from camserve.attribution.methods import METHODS
from camserve.attribution.methods.eigencam import orientation
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError
from small_networks import SIDE, deep, distance, objectives_for, pictures, pooled, tokens, watch


def test_before_pooling_and_one_linear_layer_gradcam_is_cam_by_the_number_of_positions() -> None:
    output = linear_output(WEIGHTS, ACTIVATION)
    by_hand = [[[-0.75, 4.5], [0.75, 0.0]]]
    for name in ("gradcam", "hirescam", "xgradcam", "reciprocam"):
        assert METHODS[name].run(output, FIRST).tolist() == by_hand, name


def test_cam_weighs_by_the_classifiers_own_weights() -> None:
    output = observe(small := pooled(), pictures(1))
    weight = small.network.classifier[2].weight.detach()[[2]]
    by_hand = (weight[:, :, None, None] * output.activations).sum(dim=1)
    assert distance(METHODS["cam"].run(output, objectives_for((0, 2))), by_hand) <= 1e-6


def test_cam_says_why_it_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match=r"average pooling and one linear layer alone; 'gradcam' is the same"):
        METHODS["cam"].run(observe(deep(), pictures(1)), objectives_for((0, 0)))


def test_hirescam_is_blank_before_a_normalisation_not_noise() -> None:
    small, objectives = tokens(), objectives_for((0, 1))
    output = observe(small, pictures(1))
    noise = (output.gradients(objectives) * output.activations).sum(dim=1)
    assert 0 < noise.abs().max() < 1e-4 * METHODS["gradcam"].run(output, objectives).abs().max()
    assert not METHODS["hirescam"].run(output, objectives).any()


def test_layercam_drops_the_gradients_below_zero() -> None:
    assert METHODS["layercam"].run(linear_output(WEIGHTS, ACTIVATION), FIRST).tolist() == [[[0.25, 4.5], [0.75, 1.0]]]


def test_gradcam_plus_plus_follows_equation_19() -> None:
    # gradients 1/4, 1/2, -1/4 at each of 4 positions; sums of activation 10, 8, 8
    # alphas g^2 / (2 g^2 + sum(A) g^3) = 1 / (2 + sum(A) g): 1/4.5, 1/6, and a ReLU drops the third
    # weights 4 * alpha * g: 2/9, 1/3
    by_hand = torch.tensor([[[2 / 9, 4 / 9 + 8 / 3], [6 / 9, 8 / 9]]])
    assert distance(METHODS["gradcam++"].run(linear_output(WEIGHTS, ACTIVATION), FIRST), by_hand) <= 1e-6


def test_gradcam_plus_plus_does_not_underflow() -> None:
    faint = [[weight * 1e-25 for weight in row] for row in WEIGHTS]
    found = METHODS["gradcam++"].run(linear_output(faint, ACTIVATION), FIRST)
    by_hand = torch.tensor([[[0.5, 1.0 + 8.0], [1.5, 2.0]]]) * 1e-25  # alpha is 1/2 where gradients vanish
    assert distance(found * 1e25, by_hand * 1e25) <= 1e-6


def test_ablationcam_weighs_a_channel_by_the_fall_of_the_score() -> None:
    # weight times mean activation: 2.5, 4, -2
    found = METHODS["ablationcam"].run(linear_output(WEIGHTS, ACTIVATION), FIRST)
    assert distance(found, torch.tensor([[[-5.5, 37.0], [7.5, 2.0]]])) <= 1e-6


def test_ablationcam_runs_nothing_where_each_channel_has_its_own_term() -> None:
    small, objectives = pooled(), objectives_for((0, 2), (1, 0))
    run = METHODS["ablationcam"].run(watch(small, pictures(2), tape=True), objectives)
    known = observe(small, pictures(2))
    assert known.head is not None
    known.rescore = None  # type: ignore[method-assign,assignment]  # which would raise
    assert distance(METHODS["ablationcam"].run(known, objectives), run) <= 1e-5


def test_eigencam_is_the_one_direction_there_is() -> None:
    # The second channel is minus twice the first: one direction, in which the first channel grows.
    shape = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    output = linear_output([[1.0, 1.0]], [shape.tolist(), (6 - 2 * shape).tolist()])
    one = Objectives.weighing([0], torch.tensor([[1.0]]))
    by_hand = -(shape - shape.mean()) * 5**0.5  # the sum of both falls where the first channel grows
    assert distance(METHODS["eigencam"].run(output, one), by_hand[None]) <= 1e-6
    assert orientation(output, one) == [{"orientation": 1.0}]


def test_eigengradcam_is_turned_as_gradcam_is() -> None:
    small = deep()
    output, objectives = observe(small, pictures()), objectives_for((0, 1), (1, 2), (2, 3))
    found, guide = (METHODS[name].run(output, objectives) for name in ("eigengradcam", "gradcam"))
    assert ((found * (guide - guide.mean(dim=(1, 2), keepdim=True))).sum(dim=(1, 2)) > 0).all()


def test_reciprocam_scores_each_position_alone() -> None:
    small = deep()
    output = observe(small, pictures(1))
    alone = torch.zeros_like(output.activations)
    alone[..., 2, 3] = output.activations[..., 2, 3]
    tail = small.network.classifier
    by_hand = tail(alone) - tail(torch.zeros_like(alone))
    assert distance(METHODS["reciprocam"].run(output, objectives_for((0, 4)))[0, 2, 3], by_hand[0, 4].detach()) <= 1e-4


def test_vit_reciprocam_keeps_the_class_token_and_a_blurred_patch() -> None:
    small = tokens()
    output = observe(small, pictures(1))
    outputs: list[Tensor] = []
    block = small.network.get_submodule(small.layer.name)
    with block.register_forward_hook(lambda *args: outputs.append(args[2])), torch.no_grad():
        small.network(pictures(1))
    masks = torch.zeros(2, 17)
    masks[:, 0] = 1
    masks[0, [1, 2, 5, 6]] = torch.tensor([1 / 4, 1 / 8, 1 / 8, 1 / 16])  # the first patch, a corner of the grid
    encoder = small.network.encoder
    with torch.no_grad():
        after = [small.network.heads(encoder.ln(encoder.layers[1](outputs[0] * mask[:, None]))[:, 0]) for mask in masks]
    found = METHODS["vit_reciprocam"].run(output, objectives_for((0, 3)))
    assert distance(found[0, 0, 0], (after[0] - after[1])[0, 3]) <= 1e-4


def test_vit_reciprocam_says_that_it_reads_tokens() -> None:
    with pytest.raises(ConfigError, match="reads tokens and 'features' has none"):
        METHODS["vit_reciprocam"].run(observe(deep(), pictures(1)), objectives_for((0, 0)))


def test_scorecam_weighs_by_a_softmax_of_what_masked_pictures_score() -> None:
    small, pixels = deep(), pictures(1)
    output = observe(small, pixels)
    masks = nn.functional.interpolate(output.activations, size=(SIDE, SIDE), mode="bilinear")
    low, high = output.activations.amin(dim=(2, 3)), output.activations.amax(dim=(2, 3))
    masks = torch.nan_to_num((masks - low[:, :, None, None]) / (high - low)[:, :, None, None])
    with torch.no_grad():
        scores = torch.stack([small.network(pixels * masks[:, [k]])[0, 1] for k in range(6)])
    by_hand = (scores.softmax(dim=0)[:, None, None] * output.activations[0]).sum(dim=0)
    assert distance(METHODS["scorecam"].run(output, objectives_for((0, 1)))[0], by_hand) <= 1e-5


def test_scorecam_is_bounded() -> None:
    small = pooled(channels=70)
    passes: list[int] = []
    output = observe(small, pictures(1))
    with small.network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0]))):
        METHODS["scorecam"].run(output, objectives_for((0, 1), (0, 2), (0, 3)))
    assert sum(passes) == 64


def test_the_halves_of_gradcam_add_up_to_it() -> None:
    output = linear_output(WEIGHTS, ACTIVATION)
    assert METHODS["gradcam+"].run(output, FIRST).tolist() == [[[0.25, 4.5], [0.75, 1.0]]]
    assert METHODS["gradcam-"].run(output, FIRST).tolist() == [[[-1.0, 0.0], [0.0, -1.0]]]


def test_hirescam_and_the_bias_sum_to_the_score() -> None:
    output = linear_output(WEIGHTS, ACTIVATION, bias=0.5)
    assert METHODS["hirescam"].run(output, FIRST).sum() + 0.5 == output.scores[0, 0]
