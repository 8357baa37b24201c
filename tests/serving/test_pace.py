"""When the time of a batch is over: who is answered all the same, and what the others are told."""

import json

import pytest

from camserve.serving.pace import Pace, seconds_of_a_batch
from camserve.serving.warm_up import MOST_SECONDS, time_slow_methods
from camserve.values import RawRequest
from colour_pipeline import build


def ask(pipeline, rows):
    return [(answer.status, json.loads(answer.body)) for answer in pipeline.answer(rows)]


@pytest.fixture
def busy():
    """A pipeline whose time is over at once, and where a picture takes a second."""
    pipeline = build(methods=["gradcam", "ablationcam", "scorecam"])
    pipeline.pace = Pace(0.0)
    pipeline.pace.took(1.0, 1)
    return pipeline


@pytest.fixture
def row(encoded):
    body = encoded(16, 16, color=(50, 100, 200))
    return lambda number=None, options={}: RawRequest(body, options, body=number)


def test_single_pictures_are_predicted_and_explained_by_one_pass_whatever_the_time(busy, row):
    for status, answer in ask(busy, [row(), row()]):
        assert status == 200
        assert [explanation["status"] for explanation in answer["explanations"]] == ["ok"]
        assert answer["warnings"] == []


def test_bodies_of_many_that_find_no_time_are_refused_picture_by_picture(busy, row):
    alone, *others = ask(busy, [row(), row(1), row(1), row(2), row(2)])
    assert alone[0] == 200
    assert {(status, answer["error"]["code"]) for status, answer in others} == {(503, "overloaded")}


def test_a_body_of_many_that_comes_alone_is_answered(busy, row):
    assert {status for status, _ in ask(busy, [row(1), row(1)])} == {200}


def test_there_is_time_for_what_fits(row):
    pipeline = build()
    pipeline.pace = Pace(60.0)
    pipeline.pace.took(1.0, 1)
    assert {status for status, _ in ask(pipeline, [row(), row(1), row(1)])} == {200}


def test_slow_methods_are_given_up_and_the_cheap_map_is_not(busy, row):
    ((status, answer),) = ask(busy, [row(None, {"method": "gradcam,ablationcam,scorecam"})])
    assert status == 200
    found = {explanation["method"]: explanation["status"] for explanation in answer["explanations"]}
    assert found == {"gradcam": "ok", "ablationcam": "skipped", "scorecam": "skipped"}
    assert [warning["code"] for warning in answer["warnings"]] == ["OUT_OF_TIME"] * 2


def test_the_first_picture_is_drawn_and_the_grids_stand_for_the_rest(busy, row):
    ((_, answer),) = ask(busy, [row(None, {"target": "top:2", "format": "overlay,mask"})])
    first, second = answer["explanations"]
    assert list(first["images"]) == ["overlay"]
    assert second["images"] == {}
    assert first["grid"]
    assert second["grid"]
    assert [warning["code"] for warning in answer["warnings"]] == ["NO_TIME_TO_DRAW"] * 2
    ((_, whole),) = ask(build(), [row(None, {"target": "top:2", "format": "overlay,mask"})])
    assert first["images"]["overlay"] == whole["explanations"][0]["images"]["overlay"]


def test_a_picture_in_place_of_an_answer_is_drawn_whatever_the_time(busy, encoded):
    (answer,) = busy.answer([RawRequest(encoded(16, 16, color=(50, 100, 200)), {}, {"accept": "image/png"})])
    assert (answer.status, answer.content_type) == (200, "image/png")


def test_a_picture_longer_than_an_answer_may_be_is_refused(encoded):
    pipeline = build(limits={"max_response_bytes": 100})
    request = RawRequest(encoded(64, 64, color=(50, 100, 200)), {}, {"accept": "image/png"})
    ((status, answer),) = ask(pipeline, [request])
    assert (status, answer["error"]["code"]) == (413, "too_much_work")


def test_a_body_that_asks_for_too_much_is_refused_beyond_it(row):
    rows = [row(1, {"target": "top:3"}), row(1, {"target": "top:3"}), row()]
    first, second, alone = ask(build(limits={"max_body_maps": 3}), rows)
    assert (first[0], second[0], alone[0]) == (200, 413, 200)
    assert second[1]["error"]["code"] == "too_much_work"


@pytest.mark.parametrize(
    ("answer_ms", "usual", "slowest_map", "expected"),
    [
        (None, 0.1, 0.0, 1.0),  # at least a second
        (None, 2.0, 0.0, 6.0),  # a slow network: three batches
        (None, 0.1, 4.0, 6.0),  # a slow method: one map and a half
        (None, 20.0, 0.0, 20.0),  # two thirds of the 30 s that the server waits
        (500, 2.0, 4.0, 0.5),
        (60_000, 0.1, 0.0, 20.0),
    ],
)
def test_the_time_of_a_batch(answer_ms, usual, slowest_map, expected):
    assert seconds_of_a_batch(answer_ms, usual, slowest_map, 30.0) == pytest.approx(expected)


def test_the_slowest_method_is_timed():
    assert time_slow_methods(build()) == 0
    assert 0 < time_slow_methods(build(methods=["gradcam", "scorecam"])) < MOST_SECONDS
