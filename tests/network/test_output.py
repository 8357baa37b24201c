"""Scores are found in whatever a classifier returns."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from camserve.build.probe import find_layer
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork, scores_of
from odd_networks import Odd
from small_networks import SHAPE, deep, pictures, settle


class Answer(NamedTuple):
    logits: Tensor


def transformers_answer(scores):
    from transformers.modeling_outputs import ImageClassifierOutput

    return ImageClassifierOutput(logits=scores)


ANSWERS = {
    "tensor": lambda scores: scores,
    "trailing axes": lambda scores: scores[:, :, None, None],
    "tuple": lambda scores: (scores[:, :, None], scores, scores * 2),
    "list": lambda scores: [scores, scores * 2],
    "logits": lambda scores: {"loss": scores * 2, "logits": scores},
    "mapping": lambda scores: {"features": scores[:, :, None], "scores": scores, "aux": scores * 2},
    "object": Answer,
    "transformers": transformers_answer,
    "half": lambda scores: scores.bfloat16(),
}


def test_scores_are_found_in_any_kind_of_answer():
    plain = settle(Odd())
    expected, layer = plain(pictures()), find_layer(plain, SHAPE)
    for name, answer in ANSWERS.items():
        odd = ScoringNetwork(settle(Odd(answer)))
        scores = odd(pictures())
        assert scores.dtype == torch.float32, name
        assert torch.allclose(scores, expected, atol=0.02 if name == "half" else 0, rtol=0), name
        assert find_layer(odd, SHAPE) == layer, name


def test_one_score_a_picture_becomes_one_class():
    assert scores_of(torch.tensor([1.0, 2.0])).tolist() == [[1.0], [2.0]]
    network = ScoringNetwork(settle(Odd(lambda scores: scores[:, 0])))
    assert network(pictures()).shape == (3, 1)
    assert find_layer(network, SHAPE).name == "features"


NO_SCORES = {
    "a tuple of (2, 3, 4), str": (torch.zeros(2, 3, 4), "x"),
    "a dict of features: (2, 3, 4)": {"features": torch.zeros(2, 3, 4)},
    "a float32 tensor of shape (2, 3, 4)": torch.zeros(2, 3, 4),
    "a int64 tensor of shape (2, 3)": torch.zeros(2, 3, dtype=torch.int64),
    "a NoneType without logits": None,
}


def test_an_answer_without_scores_is_described():
    for described, output in NO_SCORES.items():
        with pytest.raises(ConfigError) as refusal:
            scores_of(output)
        assert str(refusal.value) == f"the classifier returns {described}; it must return scores of shape (N, classes)"


def test_the_wrapper_keeps_names_modes_and_parameters():
    network = deep().network
    wrapped = ScoringNetwork(network)
    assert dict(wrapped.named_modules()) == dict(network.named_modules())
    assert dict(wrapped.named_parameters()).keys() == dict(network.named_parameters()).keys()
    assert wrapped.get_submodule("features.0") is network.features[0]
    wrapped.train().requires_grad_(False).double()
    assert all(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
