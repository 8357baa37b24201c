"""Signals, by hand and as laws over the table."""

import types

import numpy as np
import pytest

from camserve.monitor.measure import join_inputs, sample_pixels
from camserve.monitor.signals import SIGNALS
from camserve.monitor.views import Inputs, Maps, Predictions
from monitoring_parts import collect
from synthetic_photos import photo


def compute(name, view):
    return float(SIGNALS[name].formula(view)[0])


def test_signals_of_a_map_of_two_by_two():
    view = Maps(np.array([[[3.0, 1.0], [0.0, 0.0]]], np.float32), np.array([0.2]))
    assert compute("log_mass", view) == pytest.approx(np.log(4))
    assert compute("peak", view) == 3
    assert compute("area", view) == pytest.approx(1 / (4 * (0.75**2 + 0.25**2)))
    assert compute("centroid_x", view) == pytest.approx(0.75 * 0.25 + 0.25 * 0.75)
    assert compute("centroid_y", view) == pytest.approx(0.25)
    # Across: .75 * .25^2 + .25 * .75^2 - .375^2 between the cells, .5^2 / 12 within one. Down: within alone.
    assert compute("elongation", view) == pytest.approx(np.log((0.046875 + 1 / 48) / (1 / 48)) / 2)
    assert compute("border", view) == pytest.approx(1)
    assert compute("border_mass", view) == pytest.approx(np.log(4 * 1.001))
    assert compute("negative", view) == 0.2


def test_the_border_of_a_map_is_its_outer_ring():
    raw = np.zeros((1, 4, 5), np.float32)
    raw[0, 1, 2], raw[0, 3, 2], raw[0, 2, 4] = 6, 1, 3
    assert compute("border", Maps(raw, np.zeros(1))) == pytest.approx(0.4)
    assert compute("border_mass", Maps(raw, np.zeros(1))) == pytest.approx(np.log(4), abs=0.003)
    assert compute("centroid_x", Maps(raw, np.zeros(1))) == pytest.approx(0.7 * 0.5 + 0.3 * 0.9)


def test_a_map_on_its_side_is_as_much_higher_as_it_was_wide():
    raw = np.random.default_rng(0).uniform(size=(1, 7, 7)).astype(np.float32) ** 4
    wide = np.zeros((1, 7, 7), np.float32)
    wide[0, 3] = 1
    for grid in (raw, wide):
        turned = Maps(grid.transpose(0, 2, 1).copy(), np.zeros(1))
        assert compute("elongation", turned) == pytest.approx(-compute("elongation", Maps(grid, np.zeros(1))))
    assert compute("elongation", Maps(wide, np.zeros(1))) == pytest.approx(
        np.log(7)
    )  # evenly over all columns of a row


def test_signals_of_scores():
    scores = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32)) + 3
    view = Predictions(scores, np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    assert compute("confidence", view) == pytest.approx(0.5)
    assert compute("margin", view) == pytest.approx(0.25)
    assert compute("entropy", view) == pytest.approx(1.75 / 2)
    assert compute("energy", view) == pytest.approx(3)
    assert view.classes.tolist() == [0]


def test_signals_of_a_picture():
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    pixels[0, :, ::2, 0] = 255  # red and black columns
    view = Inputs(pixels, np.array([[200.0, 100.0]]))
    assert compute("brightness", view) == pytest.approx(0.299 / 2)
    assert compute("contrast", view) == pytest.approx(0.299 / 2, rel=1e-5)
    assert compute("sharpness", view) == pytest.approx(np.log((2 * 0.299) ** 2), rel=1e-4)
    assert compute("saturation", view) == pytest.approx(0.5)
    assert compute("red_minus_blue", view) == pytest.approx(0.5)
    assert compute("aspect", view) == pytest.approx(np.log(2))
    assert compute("log_pixels", view) == pytest.approx(np.log10(20000))


def test_signals_of_a_batch_are_those_of_its_rows_alone_and_keep_their_bounds(pipeline):
    bodies = [photo(3000 + number) for number in range(16)]
    together = join_inputs([rows.signal_inputs for rows in collect(pipeline, bodies)])
    singly = [rows.signal_inputs for rows in collect(pipeline, bodies, size=1)]
    for name, signal in SIGNALS.items():
        alone = np.concatenate([inputs.column(name) for inputs in singly])
        np.testing.assert_allclose(together.column(name), alone, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(join_inputs(singly).column(name), alone, rtol=1e-6, atol=1e-9, err_msg=name)
        known = alone[np.isfinite(alone)]
        assert len(known) >= 5, name
        low, high = signal.bounds or (-np.inf, np.inf)
        assert known.min() >= low - 1e-6, name
        assert known.max() <= high + 1e-6, name


def test_one_class_has_no_entropy_and_one_cell_no_shape():
    assert compute("entropy", Predictions(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))) == pytest.approx(0)
    assert compute("margin", Predictions(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))) == 1
    assert compute("elongation", Maps(np.ones((1, 1, 1), np.float32), np.zeros(1))) == pytest.approx(0, abs=1e-9)


def test_what_is_put_aside_is_a_grid_of_the_pixels():
    random = np.random.default_rng(1)
    for size in ((224, 224), (64, 64), (120, 300), (20, 30)):
        pixels = [random.integers(0, 256, (*size, 3), np.uint8) for _ in range(2)]
        rows = sample_pixels([types.SimpleNamespace(pixels=picture, preview=None) for picture in pixels])
        step = max(1, min(size) // 56)
        assert rows.step == step
        expected = [picture[step // 2 :: step, step // 2 :: step] for picture in pixels]
        assert np.array_equal(rows.thumbnails, expected)
        assert min(rows.thumbnails.shape[1:3]) <= max(56, 2 * min(size) / step)
