"""What a body may ask for, and in which order the rows of a batch come."""

import pytest

from camserve.errors import TooMuchWork, UnknownClass
from camserve.intake.opened import open_picture
from camserve.serving.plan import TOGETHER, Plan, in_groups, refuse_excess
from camserve.settings import Limits
from camserve.values import Options, RawRequest, TargetRequest

USUAL = Options()
MANY_TARGETS = Options(targets=(TargetRequest("top", 3),), methods=("gradcam", "hirescam", "layercam"))


@pytest.fixture
def plan(encoded):
    opened = {side: open_picture(encoded(side, side, "1"), Limits()) for side in (16, 100, 3_000)}
    return lambda body=None, side=16, options=USUAL: Plan(RawRequest(body=body), options, opened[side])


def refused(plans, **limits):
    return [number for number, plan in enumerate(refuse_excess(plans, Limits(**limits))) if plan not in plans]


def test_the_pictures_of_a_body_share_its_limits(plan):
    ten = [plan(1, 100) for _ in range(10)]
    assert refused(ten) == []
    assert refused(ten, max_body_pixels=75_000) == [7, 8, 9]
    assert refused(ten, max_body_maps=4) == [4, 5, 6, 7, 8, 9]
    *_, last = refuse_excess(ten, Limits(max_body_maps=9))
    assert isinstance(last, TooMuchWork)
    assert "10 maps; the limit of a body is 9" in str(last)


def test_other_bodies_and_single_pictures_have_limits_of_their_own(plan):
    rows = [plan(1), plan(2), plan(), plan(), plan(1), plan(2)]
    assert refused(rows, max_body_maps=1) == [4, 5]


def test_a_smaller_picture_behind_a_refused_one_is_taken(plan):
    assert refused([plan(1, 100), plan(1, 100), plan(1, 16)], max_body_pixels=15_000) == [1]


def test_maps_and_drawings_are_multiplied_out(plan):
    nine = plan(options=MANY_TARGETS)
    assert nine.maps == 9
    assert plan(options=Options(explain=False)).maps == 0
    drawn = Options(targets=(TargetRequest("top", 3),), formats=("grid", "overlay", "mask"))
    assert plan(side=100, options=drawn).drawn(50) == 50 * 50 * 3 * 2
    assert plan(side=100, options=Options(picture="PNG")).drawn(1_000) == 100 * 100
    assert plan(side=100, options=Options(explain=False, formats=("overlay",))).drawn(50) == 0


def test_single_pictures_go_before_bodies_of_many_and_small_before_large(plan):
    rows = [plan(1), plan(1), plan(side=3_000), plan(), plan(2), plan(3), plan(3), plan(3)]
    assert in_groups(rows, 2) == [[3, 4], [2], [0, 1], [5, 6], [7]]
    assert in_groups(rows, 8) == [[2, 3, 4], [0, 1, 5, 6, 7]]


def test_refused_rows_go_with_the_first_and_bodies_in_groups_of_their_own(plan):
    body = [plan(1) for _ in range(TOGETHER + 1)]
    rows = [UnknownClass("no"), *body, plan()]
    first, *others = in_groups(rows, 32)
    assert first == [0, TOGETHER + 2]
    assert [len(group) for group in others] == [TOGETHER, 1]
    assert in_groups([UnknownClass("no")], 8) == [[0]]
    assert in_groups([], 8) == [[]]
