"""Objectives are values: what they weigh, however it is written down."""

import torch

from camserve.attribution.objectives import Objectives

CPU = torch.device("cpu")
WEIGHTS = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
SCORES = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
SPARSE = Objectives((1, 0, 0), (((1, 2.0),), ((0, 1.0), (2, -1.0)), ((1, 3.0), (1, -3.0))), 3, CPU)
DENSE = Objectives.weighing([1, 0, 0], WEIGHTS)


def test_objectives_weigh_the_scores_of_their_rows():
    for objectives in (SPARSE, DENSE):
        assert objectives.weights.tolist() == WEIGHTS.tolist()
        assert objectives.values(SCORES).tolist() == [32.0, -3.0, 0.0]
        assert objectives.row_index.tolist() == [1, 0, 0]
        assert torch.equal(objectives.combine(torch.eye(3)), WEIGHTS)
        assert torch.equal(objectives.spread(SCORES), SCORES[[1, 0, 0]])


def test_equal_objectives_are_one_key():
    again = Objectives.weighing((1, 0, 0), WEIGHTS.clone())
    assert {DENSE: "known"}[again] == "known"
    assert again != Objectives.weighing((0, 1, 0), WEIGHTS)
    assert again != Objectives.weighing((1, 0, 0), -WEIGHTS)


def test_the_best_classes_are_objectives_of_their_own():
    best = Objectives.of_top_classes(SCORES, 2)
    assert best == Objectives((0, 0, 1, 1), tuple(((index, 1.0),) for index in (2, 1, 2, 1)), 3, CPU)
    assert best.values(SCORES).tolist() == [4.0, 2.0, 32.0, 16.0]


def test_a_part_stands_alone():
    part = SPARSE.alone(slice(1, 3))
    assert part == Objectives((0, 1), SPARSE.terms[1:], 3, CPU)


def test_rows_are_copied_only_where_they_must_be():
    in_order = Objectives.of_top_classes(SCORES)
    assert in_order.per_row(2) == 1
    assert in_order.spread(SCORES) is SCORES
    assert Objectives.of_top_classes(SCORES, 3).per_row(2) == 3
    for rows in ((0, 1, 0), (1, 0), (0, 0)):
        assert Objectives.weighing(rows, torch.eye(3)[: len(rows)]).per_row(2) == 0
