"""What a network's output means is found by running it, and asked for where it cannot be told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from camserve.build.recipe import HeadChoice
from camserve.build.trial.output import find_meanings
from camserve.errors import ConfigError
from camserve.output_spec import OutputSpec
from model_file import quiet
from odd_networks import Odd
from small_networks import pictures, settle


def meaning_of(answer, task=None, labels=None, report=quiet, **choice):
    return find_meanings(settle(Odd(answer)), pictures(), {"": HeadChoice(task=task, **choice)}, [labels], report)[0]


FOUND = {
    "plain scores": (lambda scores: scores, {}, OutputSpec(), "multiclass"),
    "softmax": (lambda scores: scores.softmax(1), {}, OutputSpec(activation="softmax"), "multiclass"),
    "log-softmax": (
        lambda scores: functional.log_softmax(scores, 1),
        {},
        OutputSpec(activation="log_softmax"),
        "multiclass",
    ),
    "sigmoid of several": (torch.sigmoid, {"task": "multilabel"}, OutputSpec(activation="sigmoid"), "multilabel"),
    "sigmoid of one": (
        lambda scores: scores[:, 0].sigmoid(),
        {"task": "binary"},
        OutputSpec(activation="sigmoid"),
        "binary",
    ),
    "the second softmax": (
        lambda scores: (scores.softmax(1), (2 * scores).softmax(1)),
        {"select": "1"},
        OutputSpec("1", "softmax", 1),
        "multiclass",
    ),
    "logits by their name": (
        lambda scores: {"features": scores.tanh(), "logits": scores},
        {},
        OutputSpec("logits"),
        "multiclass",
    ),
    "the one that fits the labels": (
        lambda scores: (scores[:, :3], scores),
        {"labels": 5},
        OutputSpec("1"),
        "multiclass",
    ),
    "average of two softmaxes": (
        lambda scores: (scores.softmax(1) + (2 * scores).softmax(1)) / 2,
        {},
        OutputSpec(activation="probabilities"),
        "multiclass",
    ),
    "probabilities by somebody's word": (
        lambda scores: scores.sigmoid() ** 2,
        {"task": "multilabel", "activation": "probabilities"},
        OutputSpec(activation="probabilities"),
        "multilabel",
    ),
    "scores between 0 and 1 by somebody's word": (
        lambda scores: scores.sigmoid() ** 2,
        {"activation": "none"},
        OutputSpec(),
        "multiclass",
    ),
}


def test_the_meaning_of_an_output_is_found():
    for name, (answer, given, output, task) in FOUND.items():
        meaning = meaning_of(answer, **given)
        assert meaning.output == replace(output, task=task), name


ASKED = {
    "one number": (lambda scores: scores[:, :1], {}, "task: binary .* or task: regression"),
    "several sigmoids": (torch.sigmoid, {}, "task: multilabel .* or task: multiclass"),
    "two tensors": (lambda scores: (scores[:, :3], scores), {}, r"select: ...}; there is '0' \(N, 3\), '1' \(N, 5\)"),
    "a body without a head": (lambda scores: {"pooled": scores}, {}, r"there is 'pooled' \(N, 5\)"),
    "values between 0 and 1": (
        lambda scores: scores.sigmoid() ** 2,
        {},
        "activation: probabilities.* or {activation: none}",
    ),
    "maps": (lambda scores: scores[:, :, None].expand(-1, -1, 4), {}, "must return scores of shape"),
    "no batch axis": (lambda scores: scores.reshape(-1), {}, r"15 row\(s\) of scores for 3 picture"),
    "multilabel softmax": (lambda scores: scores.softmax(1), {"task": "multilabel"}, "leave task multilabel out"),
    "binary of five": (lambda scores: scores, {"task": "binary"}, "task binary is for one output"),
    "a softmax that is none": (
        lambda scores: scores,
        {"activation": "softmax"},
        "what stands at the network's end is: none",
    ),
    "no softmax where there is one": (lambda scores: scores.softmax(1), {"activation": "none"}, "is: softmax"),
    "an unknown task": (lambda scores: scores, {"task": "clustering"}, "task must be one of multiclass"),
    "a wrong path": (lambda scores: {"a": scores}, {"select": "b"}, "there is no 'b' in what the classifier returns"),
}


def test_what_cannot_be_told_is_asked_for():
    for answer, given, message in ASKED.values():
        with pytest.raises(ConfigError, match=message):
            meaning_of(answer, **given)


def test_what_was_taken_for_granted_is_said():
    lines = []
    meaning_of(lambda scores: (scores[:, :3], scores.softmax(1)), labels=5, report=lines.append)
    assert lines == [
        "the scores are output '1': it alone has 5 numbers, one for each label",
        "output: '1', 5 numbers a picture, the result of a softmax: the score is what that is given; task multiclass",
    ]
    lines.clear()
    meaning_of(lambda scores: ((scores.softmax(1) + (2 * scores).softmax(1)) / 2).log(), report=lines.append)
    assert "these are log-probabilities with no score before them" in lines[1]


def test_a_picture_of_another_shape_is_refused_in_one_line():
    with pytest.raises(
        ConfigError, match=r"fails on pictures of 1 x 32 x 32 .*are input's size and channels"
    ) as refusal:
        find_meanings(settle(Odd()), pictures()[:, :1], {"": HeadChoice()}, [None], quiet)
    assert "\n" not in str(refusal.value)
