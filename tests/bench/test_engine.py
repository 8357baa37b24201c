"""The engine benchmark: its arithmetic, its photos and networks, and one run on a small network."""

import time

import numpy as np
import pytest
import torch

from camserve.attribution.objectives import Objectives
from camserve.bench import memory
from camserve.bench.engine import TOO_SLOW, EnginePlan, measure_memory, measure_model
from camserve.bench.networks import load_subject, settle_statistics
from camserve.bench.pairs import Effort, Spread, spread_of, summarise_ratios, time_in_turns
from camserve.bench.photos import SIZE, cut_pictures, encode_jpegs, load_pixels
from camserve.network.output import ScoringNetwork
from camserve.settings import RuntimeSpec
from small_networks import SIDE, deep, pooled

CPU = torch.device("cpu")
ONCE = Effort(rounds=1, seconds=0.0)


def test_a_ratio_is_taken_within_each_round():
    times = {"explained": [2.0, 30.0, 3.0], "plain": [1.0, 20.0, 4.0]}
    # 2, 1.5, 0.75: the ratio of the medians would be 3 / 4.
    assert summarise_ratios(times, "explained", "plain") == Spread(1.5, 1.125, 1.75, 3)


def test_a_spread_is_the_median_and_the_quartiles():
    assert spread_of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread_of([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_works_take_turns_in_both_orders():
    runs = []
    works = {name: lambda name=name: runs.append(name) for name in "ab"}
    times = time_in_turns(works, Effort(rounds=4, seconds=0.0))
    assert {name: len(durations) for name, durations in times.items()} == {"a": 4, "b": 4}
    assert "".join(runs[-8:]) == "abbaabba"
    assert len(runs) > 8  # with those of the warm-up


def test_a_cell_ends_after_its_rounds_and_its_seconds():
    assert len(time_in_turns({"a": lambda: None}, Effort(rounds=50, seconds=0.0))["a"]) == 50
    assert len(time_in_turns({"a": lambda: time.sleep(0.01)}, Effort(rounds=1, seconds=0.1))["a"]) in range(2, 11)


def test_seconds_of_the_processor_do_not_count_waiting():
    (waited,) = time_in_turns({"a": lambda: time.sleep(0.2)}, Effort(rounds=1, seconds=0.0, of_processor=True))["a"]
    assert waited < 0.1


def test_a_cell_that_is_too_slow_for_three_rounds_and_a_warm_up_is_left_out():
    effort = Effort(rounds=3, longest=10.0)
    assert (effort.allows(2.4), effort.allows(2.6)) == (True, False)


def test_photos_differ_and_have_one_size():
    photos = cut_pictures(8)
    assert {photo.size for photo in photos} == {SIZE}
    assert len({photo.tobytes() for photo in photos}) == 8
    assert len(set(encode_jpegs(8))) == 8
    assert load_pixels(3, SIDE, CPU).shape == (3, 3, SIDE, SIDE)


def test_settling_makes_activations_behave_and_leaves_the_network_in_eval_mode():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    network[0].weight.data *= 100
    settle_statistics(network)
    assert not any(module.training for module in network.modules())
    assert network[1].momentum == 0.1
    with torch.no_grad():
        after = network(load_pixels(8, 224, CPU))
    assert torch.allclose(after.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.02)
    assert torch.allclose(after.std(dim=(0, 2, 3)), torch.ones(4), atol=0.02)


def test_the_best_classes_of_every_row_become_objectives():
    objectives = Objectives.of_top_classes(torch.tensor([[0.0, 2.0, 1.0], [5.0, 3.0, 4.0]]), 2)
    assert objectives.rows == (0, 0, 1, 1)
    assert objectives.weights.argmax(dim=1).tolist() == [1, 2, 0, 2]
    assert objectives.weights.sum(dim=1).tolist() == [1, 1, 1, 1]


def make_small_subject(small):
    return load_subject("small", ScoringNetwork(small.network), small.layer, RuntimeSpec(), CPU, SIDE)


@pytest.fixture(scope="module")
def subject():
    return make_small_subject(deep())


def test_explain_gives_the_scores_of_predict_and_a_map_for_each_class(subject):
    photos = load_pixels(2, SIDE, CPU)
    for candidate, closed in ((make_small_subject(pooled()), True), (subject, False)):
        assert (candidate.prepared.tails[candidate.layer.name].head is not None) is closed
        scores, maps = candidate.explain(photos, 3)
        assert np.allclose(scores, candidate.predict(photos), atol=1e-5)
        assert len(maps) == 2 * 3
        assert any(heatmap.scale > 0 for heatmap in maps)


@pytest.mark.server
def test_every_cell_is_measured(subject):
    plan = EnginePlan(("small",), (1, 2), ONCE, (1, 2), ("small",), RuntimeSpec(), CPU)
    lines = []
    cells = list(measure_model(subject, plan, lines.append, SIDE))
    assert len(lines) == 5
    found = [(cell.table, cell.batch, cell.what) for cell in cells]
    assert found[:3] == [
        ("overhead", 1, "explained / plain"),
        ("overhead", 2, "explained / plain"),
        ("targets", 8, "2 / 1"),
    ]
    assert {what for table, _, what in found if table == "peers"} == {
        "camserve",
        "camserve, with its measures",
        "captum",
        "pytorch-grad-cam",
        "torch-cam",
    }
    assert [what for table, _, what in found if table == "openvino"] == [
        "mode openvino, plain",
        "mode openvino, explained",
        "mode eager, explained",
        "ONNX Runtime alone, plain",
    ]
    for cell in cells:
        assert cell.reason == ""
        assert cell.ratio.median > 0
        assert cell.base.median > 0


def test_there_is_no_time_after_the_deadline(subject):
    plan = EnginePlan(("small",), (1, 2), ONCE, (1, 2), (), RuntimeSpec(), CPU, deadline=0.0)
    measured = list(measure_model(subject, plan, lambda _: None, SIDE))
    assert [cell.reason for cell in measured] == [TOO_SLOW] * 3


def test_memory_that_cannot_be_measured_says_why(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    cell = measure_memory(subject, CPU)
    assert (cell.ratio, cell.base) == (None, None)
    assert cell.reason == "not measured: only Linux tells the peak memory of one process"
