"""One tensor of scores comes out of whatever a classifier returns."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.network.returned import as_rows, describe_returned, select, tensors_in
from camserve.output_spec import OutputSpec
from odd_networks import Odd
from small_networks import deep, pictures, settle


class Answer(NamedTuple):
    logits: Tensor


def transformers_answer(scores):
    from transformers.modeling_outputs import ImageClassifierOutput

    return ImageClassifierOutput(logits=scores)


ANSWERS = {
    "tensor": ("", lambda scores: scores),
    "trailing axes": ("", lambda scores: scores[:, :, None, None]),
    "tuple": ("1", lambda scores: (scores[:, :, None], scores, scores * 2)),
    "list": ("0", lambda scores: [scores, scores * 2]),
    "mapping": ("heads.1", lambda scores: {"features": scores * 3, "heads": (scores * 2, scores)}),
    "object": ("logits", Answer),
    "transformers": ("logits", transformers_answer),
    "half": ("", lambda scores: scores.bfloat16()),
}


def test_scores_are_read_where_the_archive_says():
    expected = settle(Odd())(pictures())
    for name, (path, answer) in ANSWERS.items():
        scores = ScoringNetwork(settle(Odd(answer)), OutputSpec(path))(pictures())
        assert scores.dtype == torch.float32, name
        assert torch.allclose(scores, expected, atol=0.02 if name == "half" else 0, rtol=0), name


def test_every_tensor_of_an_answer_has_a_path_that_leads_to_it():
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    returned = {"a": one, "heads": [two, Answer(three)], "note": "x"}
    found = dict(tensors_in(returned))
    assert found.keys() == {"a", "heads.0", "heads.1.logits"}
    assert all(select(returned, path) is tensor for path, tensor in found.items())
    with pytest.raises(
        ConfigError, match=r"there is no 'b' in what the classifier returns, a dict of a: \(1,\), heads"
    ):
        select(returned, "b")


NO_SCORES = {
    "a tuple of (2, 3, 4), str": (torch.zeros(2, 3, 4), "x"),
    "a dict of features: (2, 3, 4)": {"features": torch.zeros(2, 3, 4)},
    "a float32 tensor of shape (2, 3, 4)": torch.zeros(2, 3, 4),
    "a float32 tensor of shape ()": torch.zeros(()),
    "a int64 tensor of shape (2, 3)": torch.zeros(2, 3, dtype=torch.int64),
    "a NoneType of nothing": None,
}


def test_an_answer_without_scores_is_described():
    for described, output in NO_SCORES.items():
        assert describe_returned(output) == described
        with pytest.raises(ConfigError, match="it must return scores of shape"):
            as_rows(output, output)


# Every way to write the last activation that torch has.
ENDINGS = {
    "softmax": (
        nn.Softmax(1),
        lambda scores: scores.softmax(1),
        lambda scores: functional.softmax(scores, dim=-1),
        lambda scores: torch.softmax(scores, 1)[:, :, None, None],
    ),
    "log_softmax": (nn.LogSoftmax(1), lambda scores: functional.log_softmax(scores, 1)),
    "sigmoid": (
        nn.Sigmoid(),
        torch.sigmoid,
        torch.special.expit,
        lambda scores: scores.sigmoid_(),
        lambda scores: {"probabilities": functional.sigmoid(scores)}["probabilities"],
    ),
}


def test_scores_are_what_the_last_activation_is_given():
    expected = settle(Odd())(pictures())
    for kind, endings in ENDINGS.items():
        for number, ending in enumerate(endings):
            network = ScoringNetwork(settle(Odd(ending)), OutputSpec(activation=kind))
            assert torch.equal(network(pictures()), expected), (kind, number)


def test_the_last_activation_of_an_exported_program_is_found_too():
    odd = settle(Odd(lambda scores: scores.softmax(1)))
    program = torch.export.export(odd, (pictures(),)).module()
    scores = ScoringNetwork(program, OutputSpec(activation="softmax"))(pictures())
    assert torch.allclose(scores, settle(Odd())(pictures()), atol=1e-6)


def test_an_activation_of_another_head_is_told_from_the_one_that_is_meant():
    two = settle(Odd(lambda scores: ((scores * 2).softmax(1), scores.softmax(1))))
    first, second = (ScoringNetwork(two, OutputSpec(str(number), "softmax", number))(pictures()) for number in (0, 1))
    assert torch.allclose(first, second * 2)


def test_probabilities_without_a_score_before_them_get_their_logarithm_or_logit():
    averaged = settle(Odd(lambda scores: (scores.softmax(1) + (2 * scores).softmax(1)) / 2))
    whole = OutputSpec(activation="probabilities")
    assert torch.allclose(ScoringNetwork(averaged, whole)(pictures()).softmax(1), averaged(pictures()), atol=1e-6)
    several = settle(Odd(lambda scores: scores.sigmoid() ** 2))
    scores = ScoringNetwork(several, replace(whole, task="multilabel"))(pictures())
    assert torch.allclose(scores.sigmoid(), several(pictures()), atol=1e-6)


def test_rows_are_counted_against_pictures_in_every_pass():
    for fold in (lambda scores: scores.squeeze(), lambda scores: scores.reshape(-1, 1)):
        network = ScoringNetwork(settle(Odd(fold)))
        with pytest.raises(ConfigError, match=r"the network gives 5 row\(s\) of scores for 1 picture"):
            network(pictures(1))


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
