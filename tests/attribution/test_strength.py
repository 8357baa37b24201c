"""How strong a map is, by hand, and what an answer and a picture do with it."""

import base64
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from camserve.measures import MethodMeasure
from camserve.values import RawRequest
from colour_pipeline import build
from score_rows import row_of

MEASURES = {"photos": 2, "usual_gap": 0.5, "methods": {"gradcam": {"usual_mass": 1.0, "weak_below": 0.6}}}
COLOUR = (51, 204, 102)  # red 0.2, green 0.8, blue 0.4: a map's mass is its channel's mean


@pytest.fixture
def pipeline():
    return build(measures=MEASURES)


@pytest.fixture
def ask(pipeline, encoded):
    def ask(**fields):
        (response,) = pipeline.answer([RawRequest(encoded(16, 16, color=COLOUR), fields)])
        answer = json.loads(response.body)
        return answer["explanations"], [(one["code"], one["explanation"]) for one in answer["warnings"]]

    return ask


def test_strength_is_the_mean_of_the_shares_of_usual_mass_and_of_the_rise_to_the_best(ask):
    explanations, warnings = ask(target="green,blue,red")
    # The best score is 0.8, and 0.5 above the mean of the others.
    rises = [1, 1 - 0.4 / 0.5, 0]
    expected = [np.sqrt(mass * rise) for mass, rise in zip((0.8, 0.4, 0.2), rises)]
    assert [explanation["strength"] for explanation in explanations] == pytest.approx(expected, abs=1e-3)
    assert warnings == [("WEAK_EVIDENCE", 1), ("WEAK_EVIDENCE", 2)]


@pytest.mark.parametrize(
    "fields", [{"contrast": "blue"}, {"evidence": "against"}, {"target": "red", "contrast": "next"}]
)
def test_a_difference_and_what_speaks_against_have_no_strength(ask, fields):
    (explanation,), warnings = ask(**fields)
    assert explanation["strength"] is None
    assert "WEAK_EVIDENCE" not in dict(warnings)


def test_a_signed_map_has_the_strength_of_its_positive_part(ask):
    (signed,), _ = ask(target="blue", evidence="signed")
    (plain,), _ = ask(target="blue")
    assert signed["strength"] == plain["strength"] > 0


def test_an_archive_without_measures_says_nothing_of_strength(encoded):
    (response,) = build().answer([RawRequest(encoded(16, 16, color=COLOUR), {"target": "red"})])
    answer = json.loads(response.body)
    assert answer["explanations"][0]["strength"] is None
    assert answer["warnings"] == []


def test_strength_costs_no_pass(pipeline, ask):
    passes = []
    handle = pipeline.network.register_forward_hook(lambda *_: passes.append(1))
    ask(target="red")
    handle.remove()
    assert len(passes) == 1


def drawn(ask, target, **fields):
    """The picture, and how far it is from the photo at most."""
    (explanation,), _ = ask(target=target, format="overlay", palette="jet", opacity="1", **fields)
    content = base64.b64decode(explanation["images"]["overlay"].partition(",")[2])
    picture = np.array(Image.open(BytesIO(content)), dtype=float)
    return np.abs(picture[:16, :16] - COLOUR).max()


def test_weak_evidence_is_drawn_weak(ask):
    strong, weak, none = (drawn(ask, target) for target in ("green", "blue", "red"))
    assert strong > 1.5 * weak > 1.5 * none
    assert none < 5  # what JPEG changes


def test_of_two_classes_that_are_as_likely_neither_is_far_below_the_other():
    assert row_of([2.0, 1.9]).rise(1, usual_gap=4.0) == pytest.approx(0.975, abs=1e-3)
    assert row_of([4.0, -4.0]).rise(1, usual_gap=4.0) == 0
    assert row_of([1.0, 1.0]).rise(1, usual_gap=0.0) == 1


def test_a_limit_that_was_not_found_makes_nothing_weak():
    assert MethodMeasure(usual_mass=1.0).fading(0.01) == 1
    assert MethodMeasure(usual_mass=0.0).strength(0.5, 1.0) is None
