"""Maps that are drawn from a kept answer."""

import pytest

from camserve.answer.render import encode
from camserve.bulk.drawing import find_fading, make_scene, map_name
from camserve.bulk.images import PICTURES, save_picture
from camserve.bulk.options import Look, check_options, look_of, wire_options
from camserve.bulk.sources import safe_name
from camserve.errors import BadOption
from camserve.measures import MethodMeasure
from many_photos import smooth_picture

WEAK = "WEAK_EVIDENCE"


def answer(**changes):
    target = {"index": 1, "label": "a / b.c", "probability": 0.5, "score": 1.0}
    explanation = {
        **{"status": "ok", "method": "gradcam", "evidence": "for", "contrast": None, "scale": 0.5, "strength": 0.1},
        **{"target": {**target, "asked": "predicted"}, "grid": [[0.0, 1.0]]},
        **changes,
    }
    source = {"width": 160, "height": 120, "format": "PNG", "region": [20, 0, 140, 120]}
    return {"input": source, "predictions": [target], "explanations": [explanation], "warnings": []}


def test_weak_evidence_is_drawn_as_weak_as_a_server_draws_it():
    measure = MethodMeasure(weak_below=0.4)
    known = Look(weak_below={"gradcam": 0.4})
    for strength in (0.0, 0.1, 0.3):
        explanation = {"strength": strength, "method": "gradcam"}
        assert find_fading(explanation, [WEAK], known) == measure.fading(strength)
        assert find_fading(explanation, [WEAK], Look()) == strength  # its archive's limit is not known
        assert find_fading(explanation, [], known) == 1
    assert find_fading({"strength": None, "method": "gradcam"}, [WEAK], known) == 1


def test_a_scene_is_laid_onto_a_photo_that_was_decoded_smaller():
    weak = {**answer(), "warnings": [{"code": WEAK, "message": "", "explanation": 0}]}
    scene = make_scene(smooth_picture(0, (80, 60)), weak, 0, Look(weak_below={"gradcam": 0.4}))
    assert scene.region == (10, 0, 70, 60)
    assert scene.grid.max() == pytest.approx(0.25)
    assert scene.size == 160
    assert scene.legend == "weak: 1 = 2"
    assert scene.caption.warnings == WEAK
    bare = make_scene(smooth_picture(0, (80, 60)), answer(), 0, Look(caption=False, size=50))
    assert (bare.legend, bare.caption, bare.size, bare.grid.max()) == (None, None, 50, 1)


def test_a_label_is_a_part_of_a_file_name():
    assert map_name(answer(), 0) == "1-a___b_c-gradcam"
    other = answer(evidence="against", contrast={"label": "x" * 99})
    assert map_name(other, 0) == f"1-a___b_c-gradcam-not-{'x' * 40}-against"


@pytest.mark.parametrize("suffix", PICTURES)
def test_one_picture_has_the_bytes_that_a_server_sends(suffix, tmp_path):
    picture = smooth_picture(0, (80, 60))
    save_picture(picture, tmp_path / "sub" / f"why{suffix}")
    assert (tmp_path / "sub" / f"why{suffix}").read_bytes() == encode(picture, PICTURES[suffix])


def test_the_longest_names_are_names_of_files(tmp_path):
    label = "\N{SNOWMAN}\u732b" * 60
    target = {"index": 1, "label": label}
    name = map_name(answer(target=target, contrast=target, evidence="against", method="integrated_gradients"), 0)
    path = tmp_path / f"{safe_name(label)}~99-{name}-overlay.jpg"
    path.touch()  # OSError: it is too long
    assert "\u732b" in path.name


def test_what_is_drawn_here_is_not_asked_of_the_model():
    options = {"format": "mask,boxes", "palette": "jet", "size": "99", "caption": "false", "target": "cat"}
    assert wire_options(options) == {"explain": "true", "target": "cat", "format": "grid,boxes"}
    assert wire_options(options, drawn_here=False) == {"explain": "true", **options}
    look = look_of(options, None)
    assert (look.formats, look.palette, look.size, look.caption) == (("mask",), "jet", 99, False)


def test_words_that_no_server_knows_are_refused_without_one():
    for options in ({"palette": "hot"}, {"size": "9000"}, {"caption": "perhaps"}, {"deadline_ms": "0"}):
        with pytest.raises(BadOption):
            check_options(options, None)
    assert check_options({"target": "any", "method": "any"}, None) is None  # which only the server can know
