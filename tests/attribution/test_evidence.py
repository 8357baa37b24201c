"""What is said about a map, and how it is brought to 0..1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from by_hand import ACTIVATION, FIRST, WEIGHTS, linear_output, observe
from camserve.answer.compat import pytorch_grad_cam_view
from camserve.attribution.evidence import channels, share_of_score, signs
from camserve.attribution.fuse import fuse
from camserve.attribution.methods import METHODS
from camserve.attribution.normalise import Map, normalise_maps
from camserve.attribution.objectives import Objectives
from small_networks import deep, distance, objectives_for, pictures, pooled, smooth


def normalised(signed: np.ndarray, evidence: str) -> Map:
    (found,) = normalise_maps(signed[None], [evidence])
    return found


def test_normalisation_divides_by_the_maximum_and_hides_nothing() -> None:
    signed = np.array([[2.0, -1.0], [0.5, -4.0]], np.float32)
    usual = normalised(signed, "for")
    assert usual.grid.tolist() == [[1.0, 0.0], [0.25, 0.0]]
    assert (usual.scale, usual.positive, usual.negative, usual.total) == pytest.approx((2.0, 1 / 3, 2 / 3, -2.5))
    assert normalised(signed, "signed").grid.tolist() == [[0.5, -0.25], [0.125, -1.0]]
    blank = normalised(-np.abs(signed), "for")
    assert (blank.blank, blank.scale, blank.grid.any(), blank.negative) == (True, 0.0, False, 1.0)
    tiny = normalised(signed * np.float32(1e-30), "for")
    assert tiny.grid.max() == 1.0


def test_maps_of_one_batch_are_normalised_as_they_are_alone() -> None:
    signed = np.random.default_rng(2).normal(size=(4, 3, 2)).astype(np.float32)
    signed[2, 1, 1] = np.nan
    kinds = ["for", "signed", "for", "against"]
    for found, one, evidence in zip(normalise_maps(signed, kinds), signed, kinds):
        alone = normalised(one, evidence)
        np.testing.assert_array_equal(found.grid, alone.grid)
        np.testing.assert_array_equal(found[1:], alone[1:])
        assert np.isfinite(found.total) == np.isfinite(one).all()


def test_an_all_negative_map_is_blank_and_its_counterfactual_is_not() -> None:
    output = linear_output(WEIGHTS, ACTIVATION)
    second = Objectives.weighing([0, 0], torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    for_it, against_it = METHODS["gradcam"].run(output, second).numpy()
    assert normalised(for_it, "for").blank
    assert normalised(for_it, "signed").grid.min() == -1.0
    assert normalised(against_it, "against").grid.max() == 1.0


def test_signs_divide_the_mass_among_the_four_pairs() -> None:
    # gradients 1/4, -1/4; mass p x p: 1+3, p x n: 2, n x p: 1, n x n: 4+5, all by 4
    output = linear_output([[1.0, -1.0]], [[[1.0, -2.0], [3.0, 0.0]], [[-4.0, 1.0], [-5.0, 0.0]]])
    one = Objectives.weighing([0], torch.tensor([[1.0]]))
    assert signs(output, one) == [{"pp": 4 / 16, "pn": 2 / 16, "np": 1 / 16, "nn": 9 / 16}]


def test_signs_of_nothing_are_zero() -> None:
    output = linear_output(WEIGHTS, [[[0.0, 0.0], [0.0, 0.0]]] * 3)
    assert signs(output, FIRST) == [{"pp": 0.0, "pn": 0.0, "np": 0.0, "nn": 0.0}]


def test_a_silu_network_draws_much_of_its_evidence_from_double_negatives() -> None:
    (shares,) = signs(observe(smooth(), pictures(1)), objectives_for((0, 1)))
    assert shares["nn"] > 0.03
    assert sum(shares.values()) == pytest.approx(1.0)


def test_channels_come_strongest_first() -> None:
    ((first, second),) = channels(linear_output(WEIGHTS, ACTIVATION), FIRST, top=2)
    assert first == pytest.approx(
        {"channel": 1, "weight": 0.5, "activation": 2.0, "contribution": 4.0, "share": 4 / 8.5}
    )
    assert second == pytest.approx(
        {"channel": 0, "weight": 0.25, "activation": 2.5, "contribution": 2.5, "share": 2.5 / 8.5}
    )


def test_the_contributions_of_all_channels_sum_to_the_map() -> None:
    output = observe(deep(), pictures(1))
    (strongest,) = channels(output, objectives_for((0, 1)), top=100)
    assert len(strongest) == 6
    total = float(METHODS["gradcam"].run(output, objectives_for((0, 1))).sum())
    assert sum(channel["contribution"] for channel in strongest) == pytest.approx(total)
    assert sum(channel["share"] for channel in strongest) == pytest.approx(1.0)


def test_the_share_of_the_score_is_given_where_it_can_be_known() -> None:
    small, objectives = pooled(), objectives_for((0, 1), (1, 2))
    output = observe(small, pictures(2))
    assert share_of_score(output, objectives, METHODS["gradcam"].run(output, objectives)) == pytest.approx([1.0, 1.0])
    other = observe(deep(), pictures(2))
    assert share_of_score(other, objectives, METHODS["gradcam"].run(other, objectives)) == [None, None]


def test_fusion_takes_the_larger_of_scaled_maps() -> None:
    coarse, fine = torch.tensor([[[4.0]]]), torch.tensor([[[0.0, -1.0], [1.0, 2.0]]])
    by_hand = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    assert torch.equal(fuse([coarse, fine], (2, 2)), by_hand)
    blank = -coarse
    lifted = torch.tanh(torch.tensor([[[0.0, 0.0], [1.0, 2.0]]]))
    assert torch.equal(fuse([blank, fine], (2, 2)), lifted)
    assert torch.equal(fuse([fine], (2, 2)), torch.tensor([[[0.0, 0.0], [0.5, 1.0]]]))


def test_the_view_of_pytorch_grad_cam_keeps_its_epsilon() -> None:
    signed = torch.tensor([[[1.0, 3.0], [-5.0, 2.0]]])
    assert distance(pytorch_grad_cam_view(signed, (2, 2)), signed.clamp(min=0) / 3) <= 1e-6
    assert pytorch_grad_cam_view(signed * 1e-15, (2, 2)).max() < 0.3  # theirs never reaches 1; ``normalise_maps`` does
