"""The study's own arithmetic: false alarms, power and the estimate of accuracy on numbers that are known."""

import numpy as np
import pytest
from PIL import Image

from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.monitor.signals import NAMES
from drift_measure import Condition, load, save
from drift_power import FAMILIES, Design, clean_month, estimate_accuracy, power, table
from labelled_photos import read_photos
from shifts import HIDDEN, MOVED, SHIFTS

DESIGN = Design(repeats=60, windows=(50, 100))


@pytest.fixture(scope="module")
def conditions():
    """500 made-up photos; under "moved" the border signal moves and half of the answers turn wrong."""
    random = np.random.default_rng(0)
    clean = random.uniform(size=(500, len(NAMES)))
    confidence = clean[:, NAMES.index("confidence")]
    moved = clean.copy()
    moved[:, NAMES.index("border")] += 0.6
    moved[:, NAMES.index("confidence")] = confidence * 0.625
    # Wrong below a confidence of .2: all that the estimate assumes.
    return {
        "clean": Condition(clean, confidence >= 0.2, False),
        "moved": Condition(moved, confidence * 0.625 >= 0.2, False),
    }


def test_only_the_family_that_was_moved_alarms(conditions):
    conditions = {**conditions, "moved": Condition(conditions["moved"].values.copy(), conditions["moved"].right, False)}
    conditions["moved"].values[:, NAMES.index("confidence")] = conditions["clean"].values[:, NAMES.index("confidence")]
    found = power(conditions, DESIGN)
    assert found["clean"].max() <= 0.05
    seen = dict(zip(FAMILIES, found["moved"][:, 1]))
    assert seen["explanations"] == 1
    assert max(seen["inputs"], seen["predictions"]) <= 0.05


def test_the_accuracy_is_estimated_by_threshold_and_by_mean_confidence(conditions):
    found = estimate_accuracy(conditions, DESIGN)
    assert found["moved"].accuracy == pytest.approx(0.68, abs=0.04)
    # The threshold tells right from wrong; the mean confidence falls by 3/8 of a half, and the accuracy was .80.
    assert found["moved"].estimated == pytest.approx((0.68 + 0.80 - 0.1875) / 2, abs=0.03)
    assert found["clean"].estimated == pytest.approx(found["clean"].accuracy, abs=0.01)
    assert 0 < found["clean"].single_error < found["moved"].single_error < 0.08


def test_a_clean_month_is_counted_hour_by_hour(conditions):
    month = clean_month(conditions["clean"], reference=500, hourly=40, days=1)
    assert month.features == len(NAMES)
    assert month.evaluations == (96 - 4 + 1) + 1
    assert (month.alarms, month.sequential_alarms) == (0, 0)


def test_what_was_measured_is_kept(conditions, tmp_path):
    save(dict.fromkeys(SHIFTS, conditions["clean"]), tmp_path / "out" / "kept.npz")
    kept = load(tmp_path / "out" / "kept.npz")
    assert list(kept) == list(SHIFTS)
    assert np.array_equal(kept["moved"].values, conditions["clean"].values)


def test_the_table_has_a_row_for_every_shift(conditions):
    lines = table(conditions, power(conditions, DESIGN), estimate_accuracy(conditions, DESIGN), [0, 1])
    assert len(lines) == 2 + len(conditions)
    assert lines[3].startswith("| moved: camera moved by 30 % of the width |")
    assert lines[3].endswith("| 1.00 / 1.00 |  |")


def test_a_folder_without_labels_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"labels.csv"):
        read_photos(tmp_path)


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8).astype(np.uint8))


@pytest.mark.parametrize("name", [name for name in SHIFTS if name != "clean"])
def test_every_shift_changes_the_picture_or_the_preprocessing_and_not_both(picture, name):
    shift, spec = SHIFTS[name], InputSpec(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    changed = shift.picture(picture)
    assert changed.mode == "RGB"
    same = changed.size == picture.size and np.array_equal(np.asarray(changed), np.asarray(picture))
    assert same != (shift.input(spec) == spec)


def test_shifts_by_hand(picture):
    pixels = np.asarray(picture)
    moved = np.asarray(SHIFTS["moved"].picture(picture))
    by = round(60 * MOVED)
    assert np.array_equal(moved[:, by:], pixels[:, :-by])
    assert np.array_equal(moved[:, by - 1], pixels[:, 0])
    hidden = np.asarray(SHIFTS["occluded"].picture(picture))
    assert (hidden != pixels).any(axis=2).sum() <= (40 * HIDDEN) ** 2
    assert np.array_equal(np.asarray(SHIFTS["bgr"].picture(picture)), pixels[..., ::-1])
