"""The limit of LOW_CONFIDENCE, from labelled photos to an archive's answers."""

import dataclasses
import json

from PIL import Image

from camserve.build.mar.pack import add_evaluated
from camserve.build.mar.unpack import open_archive
from camserve.evaluate.confidence import calibrate_confidence
from camserve.evaluate.plan import PhotoMeasures
from camserve.measures import Evaluated
from camserve.values import RawRequest
from input_archives import build_means, ramp

CARD = Evaluated("2026-11-30", "abc", 40, low_confidence=0.99)


def rows_of(count, share=0.25):
    """Photos of which a share is answered wrong, with less confidence than any other."""
    for number in range(count):
        is_right = number % round(1 / share) != 0
        yield PhotoMeasures(f"{number:03d}#1", "gradcam", 1, int(is_right), 0.5 + 0.4 * is_right + number / 1e4, {}, {})


def test_as_many_answers_lie_below_the_limit_as_are_wrong():
    limit = calibrate_confidence(rows_of(40))
    assert 0.5 + 39 / 1e4 < limit.below <= 0.91
    assert "from 40 photos" in limit.words
    assert "of the wrong answers and 3% [1% 17%] of the right ones" in limit.words


def test_too_few_photos_or_no_mistakes_give_none():
    assert calibrate_confidence(rows_of(39)) is None
    assert calibrate_confidence([row for row in rows_of(80) if row.predicted == 1]) is None


def test_a_photo_of_two_classes_is_right_by_either():
    both = [dataclasses.replace(row, photo=row.photo[:-1] + "0", label=0) for row in rows_of(40)]
    assert calibrate_confidence([*rows_of(40), *both]) is None


def test_a_card_turns_the_warning_on(tmp_path):
    archive, picture = build_means(tmp_path), tmp_path / "ramp.png"
    Image.fromarray(ramp()).save(picture)

    def codes():
        with open_archive(archive) as pipeline:
            (response,) = pipeline.answer([RawRequest(picture.read_bytes())])
        return {warning["code"] for warning in json.loads(response.body)["warnings"]}

    assert "LOW_CONFIDENCE" not in codes()
    add_evaluated(archive, CARD, {})
    assert "LOW_CONFIDENCE" in codes()
