"""Maps that are no methods, and what they are compared with."""

import numpy as np
import pytest
import torch

import candidate_maps
from by_hand import observe
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.evaluate.measures import complexity
from candidate_maps import in_directions, rather_than_others, sharpen
from small_networks import distance, objectives_for, pictures, smooth


@pytest.fixture
def output():
    return observe(smooth(), pictures(2))


def test_all_directions_are_hirescam_less_its_mean_and_one_is_eigengradcam(output, monkeypatch):
    objectives = objectives_for((0, 1), (1, 2))
    hirescam = METHODS["hirescam"].run(output, objectives)
    monkeypatch.setattr(candidate_maps, "DIRECTIONS", 10_000)
    assert distance(in_directions(output, objectives), hirescam - hirescam.mean(dim=(1, 2), keepdim=True)) < 1e-4
    monkeypatch.setattr(candidate_maps, "DIRECTIONS", 1)
    one, eigen = (
        in_directions(output, objectives).flatten(1),
        METHODS["eigengradcam"].run(output, objectives).flatten(1),
    )
    assert torch.cosine_similarity(one, eigen).abs() == pytest.approx([1, 1], abs=1e-3)


def test_a_contrast_leaves_out_what_all_other_classes_share(output):
    objectives = Objectives.weighing([0], torch.eye(output.scores.shape[1])[:1])
    (found,) = rather_than_others(output, objectives)
    others = (output.scores[0, 1:] / candidate_maps.SOFTER).softmax(dim=0)
    weights = torch.cat([torch.ones(1), -others])[None]
    assert distance(found, METHODS["hirescam"].run(output, Objectives.weighing([0], weights))[0]) < 1e-5


@pytest.mark.parametrize("goal", [0.4, 0.7, 0.95])
def test_a_map_is_sharpened_to_an_entropy_and_keeps_its_order(goal):
    signed = np.random.default_rng(0).normal(1, 1, (9, 9)).astype(np.float32)
    found = sharpen(signed, goal)
    assert complexity(found) == pytest.approx(goal, abs=1e-3)
    assert (np.argsort(found[signed > 0]) == np.argsort(signed[signed > 0])).all()
    assert not sharpen(-np.abs(signed), goal).any()
