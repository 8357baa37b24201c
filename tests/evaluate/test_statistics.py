"""Intervals, paired comparisons and Holm's correction, where the answer is known."""

from itertools import product

import numpy as np
import pytest

from camserve.errors import ConfigError
from camserve.evaluate.plan import PhotoMeasures
from camserve.evaluate.statistics import bootstrap, interval, sign_flip
from camserve.evaluate.summary import best_threshold, summarise


def test_an_interval_is_the_same_each_time_and_holds_the_mean():
    values = np.random.default_rng(0).normal(2, 1, 400)
    mean, low, high = bootstrap(values)
    assert (low, high) == pytest.approx((mean - 1.96 / 20, mean + 1.96 / 20), abs=0.02)
    assert interval(values) == f"{mean:.2f} [{low:.2f} {high:.2f}]"


def test_the_chance_of_paired_differences_is_that_of_all_signs():
    differences = np.array([0.4, 0.1, 0.3, -0.2, 0.5, 0.2])
    means = [abs(np.mean(np.array(signs) * differences)) for signs in product((-1, 1), repeat=6)]
    exact = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert sign_flip(differences) == pytest.approx(exact, abs=0.02)
    assert sign_flip(np.zeros(9)) == 1


def rows_of(photo, usual, other):
    return [
        PhotoMeasures(
            f"{photo:02d}",
            name,
            0,
            photo % 2,
            0.9,
            {"energy": value},
            {"box": {f"{t:g}": iou for t, iou in boxes}} if boxes else {},
        )
        for name, value, boxes in (
            ("gradcam", usual, [(t, float(t == 0.3)) for t in THRESHOLDS]),
            ("layercam", other, [(t, 0.6) for t in THRESHOLDS]),
            ("centre", 0.1, []),
        )
    ]


THRESHOLDS = [round(0.05 * step, 2) for step in range(1, 15)]


def test_a_summary_compares_with_the_first_and_calibrates_boxes_on_one_half():
    random = np.random.default_rng(0)
    rows = [row for photo in range(30) for row in rows_of(photo, *random.normal([0.4, 0.6], 0.05))]
    summary = summarise(rows)
    assert (summary.photos, summary.accuracy, summary.variants) == (30, 0.5, ("gradcam", "layercam", "centre"))
    figures = summary.figures["energy"]
    assert figures["layercam"].chance < 0.01
    assert figures["layercam"].text.endswith(" *")
    assert figures["gradcam"].chance is None is figures["centre"].chance
    assert summary.thresholds["box"]["gradcam"] == 0.3
    assert summary.figures["box"]["gradcam"].mean == 1
    assert summary.figures["box"]["gradcam"].photos == 15


def test_one_photo_has_no_figure_of_boxes_and_none_are_refused():
    summary = summarise(rows_of(0, 0.4, 0.6))
    assert list(summary.figures) == ["energy"]
    with pytest.raises(ConfigError, match="no photo could be measured"):
        summarise([])


def test_of_thresholds_that_find_as_many_the_larger_overlap_wins():
    low = {f"{threshold:g}": 0.5 + threshold for threshold in THRESHOLDS}
    assert best_threshold([low]) == 0.7
