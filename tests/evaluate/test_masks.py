"""Masks as annotations keep them."""

import numpy as np
import pytest
from PIL import Image

from camserve.errors import ConfigError
from camserve.evaluate.frames import place_mask
from camserve.evaluate.masks import ObjectMask, mask_of_coco, read_mask

SIZE = (4, 6)
EXPECTED = np.zeros(SIZE, bool)
EXPECTED[1:3, 2:5] = True
RUNS = [9, 2, 2, 2, 2, 2, 5]  # down the columns


def test_a_polygon_covers_the_pixels_inside():
    mask = mask_of_coco([[2, 1, 5, 1, 5, 3, 2, 3]])
    assert np.array_equal(read_mask([mask], SIZE), EXPECTED)


def test_run_lengths_go_down_the_columns():
    assert np.array_equal(read_mask([mask_of_coco({"counts": RUNS, "size": SIZE})], SIZE), EXPECTED)


def test_compressed_run_lengths_are_those_of_pycocotools():
    """What it encodes; numbers take several characters, and differences may be below 0."""
    assert mask_of_coco({"counts": "9220003", "size": SIZE}).runs == tuple(RUNS)
    assert mask_of_coco({"counts": "T3d0g1^O\\Nj6a?", "size": (30, 30)}).runs == (100, 20, 55, 2, 3, 220, 500)


def test_a_slanted_polygon_covers_half_a_square_and_two_are_united():
    half = read_mask([mask_of_coco([[0, 0, 100, 0, 0, 100]])], (100, 100))
    assert half.mean() == pytest.approx(0.5, abs=0.01)
    assert read_mask([mask_of_coco([[0, 0, 100, 0, 0, 100], [0, 0, 100, 0, 100, 100]])], (100, 100)).mean() > 0.7


def test_a_picture_is_a_mask_by_what_is_above_0_or_by_a_number(tmp_path):
    values = np.zeros(SIZE, np.uint8)
    values[1:3, 2:5] = 2
    values[0, 0] = 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    expected = EXPECTED.copy()
    expected[0, 0] = True
    assert np.array_equal(read_mask([ObjectMask(file=tmp_path / "mask.png", value=2)], SIZE), EXPECTED)
    assert np.array_equal(read_mask([ObjectMask(file=tmp_path / "mask.png")], SIZE), expected)
    with pytest.raises(ConfigError, match=r"mask\.png has 6 x 4 pixels, its photo 7 x 4"):
        read_mask([ObjectMask(file=tmp_path / "mask.png")], (4, 7))
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"mask\.png is no mask"):
        read_mask([ObjectMask(file=tmp_path / "mask.png")], SIZE)


def test_a_picture_that_is_too_large_to_be_opened_is_no_mask(tmp_path, monkeypatch):
    Image.new("L", (6, 4)).save(tmp_path / "mask.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(ConfigError, match=r"mask\.png is no mask: Image size \(24 pixels\) exceeds limit"):
        read_mask([ObjectMask(file=tmp_path / "mask.png")], SIZE)


def test_run_lengths_of_another_size_are_refused():
    with pytest.raises(ConfigError, match="run lengths are of 24 pixels, its photo has 20"):
        read_mask([ObjectMask(runs=tuple(RUNS))], (4, 5))


def test_a_mask_is_seen_where_the_input_shows_it():
    placed = place_mask(EXPECTED, (0, 0, 6, 4), (8, 12))
    assert np.array_equal(placed, EXPECTED.repeat(2, axis=0).repeat(2, axis=1))
    padded = place_mask(EXPECTED, (-6, -4, 6, 4), (8, 12))
    assert np.array_equal(padded[4:, 6:], EXPECTED)
    assert padded.sum() == EXPECTED.sum()
