"""Each measure by hand, and against other libraries where they define it alike."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr

from camserve.build.trial.rank_correlation import rank_correlation
from camserve.evaluate.frames import FLOORS, box_mask, enlarge, seed_of
from camserve.evaluate.measures import (
    complexity,
    deletion,
    drop_and_gain,
    energy_inside,
    insertion,
    mask_overlaps,
    overlap,
    overlaps,
    pointing,
)
from camserve.evaluate.road import PERCENTILES, impute, road

SIDE = 16


@pytest.fixture
def network():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    ).eval()


def probability(network, index=2):
    return lambda pixels: network(pixels).softmax(dim=1)[:, index].detach().numpy().astype(float)


def test_a_box_of_the_picture_lies_where_the_input_shows_it():
    mask = box_mask([(50, 0, 100, 50)], (0, 0, 100, 100), (4, 4))
    assert mask.tolist() == [[False, False, True, True]] * 2 + [[False] * 4] * 2
    padded = box_mask([(0, 0, 100, 50)], (-50, -50, 150, 100), (4, 4))
    assert np.argwhere(padded).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_pointing_counts_the_maximum_and_shares_equal_ones():
    mask = np.array([[True, False], [False, False]])
    assert pointing(np.array([[2.0, 1], [0, 0]]), mask) == 1
    assert pointing(np.array([[1.0, 2], [0, 0]]), mask) == 0
    assert pointing(np.ones((2, 2)), mask) == 0.25
    assert pointing(np.zeros((2, 2)), mask) == 0


def test_energy_is_the_share_inside():
    mask = np.array([[True, False], [False, False]])
    assert energy_inside(np.array([[3.0, 1], [0, 0]]), mask) == 0.75
    assert energy_inside(np.zeros((2, 2)), mask) == 0


def test_the_first_box_is_compared_with_the_true_box_that_it_fits_best():
    grid = np.zeros((4, 4))
    grid[0, 0], grid[0, 1] = 1, 0.4
    found = overlaps(grid, (0, 0, 40, 40), (40, 40), [(0, 0, 10, 10), (30, 30, 40, 40)])
    assert found["0.5"] == 1
    assert found["0.2"] == 0.5
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert set(overlaps(np.zeros((4, 4)), (0, 0, 40, 40), (40, 40), [(0, 0, 9, 9)]).values()) == {0}
    assert overlaps(np.ones((224, 224)), (0, 0, 40, 40), (40, 40), [(0, 0, 9, 9)]) == {}


def test_deletion_and_insertion_are_areas_of_a_score_that_is_known():
    pixels = torch.zeros(1, 1, 2, 2)
    pixels[0, 0, 0, 0] = 1
    first, last = np.array([[4.0, 3], [2, 1]]), np.array([[1.0, 2], [3, 4]])

    def corner(shown):
        return shown[:, 0, 0, 0].numpy().astype(float)

    assert deletion(first, pixels, corner, 4, 0) == pytest.approx(1 / 8)
    assert deletion(last, pixels, corner, 4, 0) == pytest.approx(7 / 8)
    assert insertion(first, pixels, corner, 4, 0) > insertion(last, pixels, corner, 4, 0)


def test_drop_and_increase_agree_with_pytorch_grad_cam(network):
    """Its drop is a difference of confidences; the paper divides by the first one."""
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    targets, values = [ClassifierOutputSoftmaxTarget(2)], np.random.default_rng(0)
    for scale in (0.1, 1, 10):
        pixels = scale * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        mask = values.random((SIDE, SIDE)).astype(np.float32)
        mask /= mask.max()
        drop, gain = drop_and_gain(3 * mask, pixels, probability(network))
        (before,) = probability(network)(pixels)
        (expected,) = DropInConfidence()(pixels, mask[None], targets, network)
        (increase,) = IncreaseInConfidence()(pixels, mask[None], targets, network)
        assert drop * before == pytest.approx(expected, abs=1e-6)
        assert gain == increase


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of its NumPy of old
def test_imputed_pixels_are_those_of_pytorch_grad_cam():
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    pixels = torch.randn(1, 3, SIDE, SIDE + 3, generator=torch.Generator().manual_seed(1))
    for share in (0.1, 0.5, 0.9):
        known = np.random.default_rng(2).random((SIDE, SIDE + 3)) < share
        expected = NoisyLinearImputer(noise=0)(pixels[0], torch.from_numpy(known).float())
        assert torch.allclose(impute(pixels, known, 0, noise=0)[0], expected, atol=1e-6)
    known[:] = False
    assert not impute(pixels, known, 0).any()


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_road_agrees_with_pytorch_grad_cam(network, monkeypatch):
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    monkeypatch.setattr(NoisyLinearImputer.__init__, "__defaults__", (0.0, None))  # whose noise no seed can repeat
    pixels = 5 * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    values = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    values = (values - values.min()) / (values.max() - values.min())
    targets = [ClassifierOutputSoftmaxTarget(2)]
    (expected,) = ROADCombined(list(PERCENTILES))(pixels, values[None], targets, network)
    assert abs(expected) > 1e-3
    assert road(3 * values, pixels, probability(network), 0, noise=0) == pytest.approx(expected, abs=1e-6)
    assert road(np.ones((SIDE, SIDE)), pixels, probability(network), 0) == pytest.approx(0, abs=1e-6)


def test_place_and_complexity_are_those_of_quantus():
    """Its figures, of Quantus 0.6.0: PointingGame, RelevanceMassAccuracy and Complexity over ln 256."""
    random = np.random.default_rng(0)
    values = random.random((3, 1, 16, 16)).astype(np.float32)[:, 0]
    masks = (random.random((3, 1, 16, 16)) > 0.6)[:, 0]
    assert [pointing(*pair) for pair in zip(values, masks)] == [1, 1, 1]
    assert [energy_inside(*pair) for pair in zip(values, masks)] == pytest.approx(
        [0.39867148, 0.3775308, 0.44210145], abs=1e-6
    )
    assert [complexity(one) for one in values] == pytest.approx([0.96642761, 0.97008792, 0.96716585], abs=1e-6)


def test_the_strongest_part_is_compared_with_a_mask():
    mask = np.array([[True, True], [False, False]])
    found = mask_overlaps(np.array([[1.0, 0.4], [0.2, 0]]), mask)
    assert (found["0.4"], found["0.5"], found["0.2"]) == (1, 0.5, pytest.approx(2 / 3))
    assert set(mask_overlaps(np.zeros((2, 2)), mask).values()) == {0}


def test_complexity_is_the_entropy_of_the_shares():
    grid = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    assert complexity(grid) == pytest.approx(entropy(grid.ravel() / grid.sum()) / np.log(49), abs=1e-6)
    assert complexity(np.ones((7, 7))) == pytest.approx(1)
    assert complexity(np.eye(7)[:1]) == 0
    assert complexity(np.zeros((7, 7))) == 1


def test_the_rank_correlation_is_scipys():
    one, other = np.random.default_rng(0).integers(0, 9, (2, 7, 7))
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert rank_correlation(one, np.ones((7, 7))) == 0
    assert rank_correlation(one, np.ones((3, 3))) is None


def test_a_map_is_enlarged_bilinearly():
    values = enlarge(np.array([[1.0, -1], [0, 0]]), (4, 4))
    assert values.shape == (4, 4)
    assert values[0].tolist() == pytest.approx([1, 0.5, -0.5, -1])


def test_floors_know_nothing_and_one_photo_keeps_its_own():
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    pixels[..., SIDE // 2 :] = 1
    drawn = {name: draw(pixels, (4, 4), seed_of("a", 0)) for name, draw in FLOORS.items()}
    assert np.unravel_index(drawn["centre"].argmax(), (4, 4)) in {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert set(drawn["uniform"].ravel()) == {1}
    assert drawn["edges"][:, 1:3].min() > drawn["edges"][:, ::3].max() == 0
    assert np.array_equal(drawn["random"], FLOORS["random"](pixels, (4, 4), seed_of("a", 0)))
    assert not np.array_equal(drawn["random"], FLOORS["random"](pixels, (4, 4), seed_of("b", 0)))
