"""Shortcuts change no answer: every map of every method is the one that plain autograd gives."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from camserve.attribution.capture import Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.mar.unpack import read_contents
from camserve.errors import ConfigError
from camserve.fast.prepare import prepare
from camserve.network.output import ScoringNetwork
from camserve.serving.load import load_pipeline
from camserve.settings import RuntimeSpec
from camserve.values import RawRequest
from small_networks import CLASSES, NETWORKS, SHAPE, Small, distance, objectives_for, pictures, watch

CPU = torch.device("cpu")
SAME = 1e-5  # of a map's maximum
# Rounding alone does more where scores are subtracted from one another, or divided by a sum that cancels.
LOSES_DIGITS = {"xgradcam", *(name for name, method in METHODS.items() if method.tape)}


def objectives_of(count: int) -> Mapping[str, Objectives]:
    last = count - 1
    one = objectives_for(*((row, 1 + row) for row in range(count)))
    several = objectives_for((last, 0), (0, 2), (last, 4), sign=-1.0)
    contrast = (((3, 1.0), (1, -1.0)),)
    return {
        "one of each row": one,
        "several of a row, a contrast": Objectives((*several.rows, 0), (*several.terms, *contrast), CLASSES, CPU),
    }


class Forms(NamedTuple):
    """One network, as it is and as it is served."""

    plain: Callable[[Tensor], LayerOutput]
    fast: Callable[[Tensor], LayerOutput]


def both_forms(small: Small) -> Forms:
    network = ScoringNetwork(small.network).eval().requires_grad_(False)
    head = find_linear_head(network, small.layer, SHAPE)
    heads = {} if head is None else {small.layer.name: head}
    served = prepare(copy.deepcopy(network), (small.layer,), SHAPE, RuntimeSpec(), heads)
    tail = served.tails[small.layer.name]
    return Forms(
        lambda pixels: watch(Small(network, small.layer), pixels, Tail(head), tape=True),
        lambda pixels: watch(
            Small(served.network, small.layer), pixels.to(memory_format=torch.channels_last), tail, tape=True
        ),
    )


def draw(method: str, output: LayerOutput, objectives: Objectives) -> Tensor | str:
    """The raw maps, or why there are none."""
    try:
        return METHODS[method].run(output, objectives)
    except ConfigError as refusal:
        return str(refusal)


def apart(method: str, one: Tensor | str, other: Tensor | str) -> bool:
    """Whether two draws differ by more than rounding, in a map or in the reason why there is none."""
    if isinstance(one, str) or isinstance(other, str):
        return not (isinstance(one, str) and isinstance(other, str) and one == other)
    allowed = 10 * SAME if method in LOSES_DIGITS else SAME
    return any(distance(found, expected) > allowed for found, expected in zip(one, other, strict=True))


def test_every_method_draws_the_same_map_with_and_without_shortcuts(
    subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[str] = set()
    for passes in ("STEPS", "SAMPLES"):  # fewer of them are the same sums
        monkeypatch.setattr(import_module("camserve.attribution.methods.gradient"), passes, 2)
    for name, build in NETWORKS.items():
        forms = both_forms(build())
        for count in (1, 3):
            plain, fast = forms.plain(pictures(count)), forms.fast(pictures(count))
            assert distance(fast.scores, plain.scores) < SAME
            for title, objectives in objectives_of(count).items():
                with subtests.test(f"{name}, {count} pictures, {title}"):
                    draws = {
                        method: (draw(method, fast, objectives), draw(method, plain, objectives)) for method in METHODS
                    }
                    different = [method for method, pair in draws.items() if apart(method, *pair)]
                    assert not different, different
                    drawn |= {method for method, (found, _) in draws.items() if isinstance(found, Tensor)}
    assert drawn == set(METHODS)


def test_a_shortcut_is_taken_where_there_is_one() -> None:
    needs_graph = {}
    for name, build in NETWORKS.items():
        small = build()
        network = ScoringNetwork(small.network).eval().requires_grad_(False)
        tail = prepare(network, (small.layer,), SHAPE, RuntimeSpec(), {}).tails[small.layer.name]
        needs_graph[name] = tail.backward is None or tail.backward.needs_graph
    assert [name for name, needed in needs_graph.items() if needed] == ["class token"]


def test_an_archive_without_shortcuts_answers_as_one_with_them(imagenet, tmp_path, coffee, chelsea) -> None:
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(tmp_path)
    settings = read_contents(imagenet).settings
    rows = [
        RawRequest(coffee),
        RawRequest(chelsea, {"method": "gradcam,layercam,eigencam", "target": "top:2", "contrast": "next"}),
    ]
    answers = []
    for runtime in (settings.runtime, replace(settings.runtime, fast=False)):
        pipeline = load_pipeline(tmp_path, replace(settings, runtime=runtime), "imagenet", "1.0", CPU)
        answers.append([json.loads(response.body) for response in pipeline.answer(rows)])
    for fast, plain in zip(*answers, strict=True):
        assert [prediction["index"] for prediction in fast["predictions"]] == [
            prediction["index"] for prediction in plain["predictions"]
        ]
        for one, other in zip(fast["predictions"], plain["predictions"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
        for one, other in zip(fast["explanations"], plain["explanations"], strict=True):
            assert (one["status"], one["method"]) == (other["status"], other["method"])
            assert np.abs(np.array(one["grid"]) - np.array(other["grid"])).max() < 1e-3
