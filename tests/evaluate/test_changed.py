"""Pictures changed a little, attacked pictures, and networks whose weights are drawn anew."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from camserve.build.mar.unpack import open_archive
from camserve.errors import ConfigError
from camserve.evaluate.asking import Asker, grid_of
from camserve.evaluate.attack import REACH, attack, picture_of
from camserve.evaluate.cascade import STAGES, Cascade
from camserve.evaluate.changed import Frame, change_picture, compare_maps
from camserve.evaluate.one_photo import Evaluator
from camserve.evaluate.plan import EvaluationPlan, PhotoUnanswered, Variant
from camserve.values import Target
from input_archives import build_means, ramp

GRADCAM = (Variant("gradcam"),)
SEVERAL = ("gradcam", "gradient", "cam", "hirescam", "layercam", "eigencam")  # more than one request may ask for
FRAME = Frame((0, 0, 32, 32), (64, 64))


@pytest.fixture(scope="module")
def means(build_once):
    return build_once("changed", build_means)


def png(values):
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def opened(content):
    return np.asarray(Image.open(BytesIO(content)))


def test_a_shift_moves_the_picture_and_its_map_is_moved_back():
    values = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    changed = change_picture(png(values), FRAME, 0)
    assert FRAME.shift == (2, 2)
    assert np.array_equal(opened(changed["shift"])[2:, 2:], values[:-2, :-2])
    grid = np.random.default_rng(1).random((32, 32)).astype(np.float32)
    moved = np.pad(grid, ((2, 0), (2, 0)))[:32, :32]
    assert compare_maps("shift", grid, moved, FRAME) > 0.99
    assert compare_maps("shift", grid, grid, FRAME) < 0.5
    assert compare_maps("shift", -grid, -moved, FRAME) > 0.99
    assert compare_maps("jpeg", grid, grid, FRAME) == pytest.approx(1)


def test_noise_is_the_same_for_a_seed_and_a_picture_that_cannot_be_read_is_said():
    content = png(np.full((8, 8, 3), 128, np.uint8))
    once, again, other = (change_picture(content, FRAME, seed)["noise"] for seed in (0, 0, 1))
    assert once == again != other
    assert 5 < opened(once).std() < 15
    with pytest.raises(PhotoUnanswered):
        change_picture(b"no picture", FRAME, 0)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_an_attack_stays_within_reach_and_is_served_as_it_was_made(tmp_path, color):
    archive = build_means(tmp_path, resize=20, color=color, mean=(0.5,) * 3, std=(0.5,) * 3)
    with open_archive(archive) as pipeline:
        asker = Asker(pipeline, GRADCAM)
        content = png(np.full((20, 20, 3), (106, 100, 100), np.uint8))
        before = asker.predict(asker.normalise([asker.read(content)])).best
        aim = 2 if before == 0 else 0
        attacked = attack(asker, content, aim)
        distance = asker.read(attacked).astype(int) - asker.read(content).astype(int)
        assert np.abs(distance).max() == REACH
        (answer,) = asker.ask(attacked, [aim])
    assert answer["predictions"][0]["index"] == aim != before


def test_pixels_that_no_picture_leads_to_are_not_attacked(tmp_path):
    archive = build_means(tmp_path, resize=8, crop=16)  # which pads what it has resized
    with open_archive(archive) as pipeline, pytest.raises(PhotoUnanswered, match="would be resized"):
        picture_of(Asker(pipeline, GRADCAM), np.full((16, 16, 3), 9, np.uint8))


def test_an_input_that_cannot_be_traced_back_is_refused(tmp_path):
    archive = build_means(tmp_path, normalise="image")
    plan = EvaluationPlan(GRADCAM, frozenset({"attack"}))
    with open_archive(archive) as pipeline:
        with pytest.raises(ConfigError, match="--measures attack needs an input"):
            Evaluator(pipeline, plan)
        Evaluator(pipeline, EvaluationPlan(GRADCAM))  # which does without


def test_a_method_that_reads_the_last_layer_reads_the_drawn_one(tmp_path):
    archive = build_means(tmp_path, methods=("gradcam", "cam"))
    with open_archive(archive) as pipeline:
        cascade, asker = Cascade(pipeline), Asker(pipeline, GRADCAM)
        pixels = asker.normalise([asker.read(png(ramp()))])
        target, both = Target(asker.predict(pixels).prediction(0), ""), (Variant("gradcam"), Variant("cam"))
        for gradcam, cam in cascade.maps(pixels, target, both):
            assert np.allclose(gradcam.grid, cam.grid, atol=1e-5)


def test_methods_that_share_a_request_are_answered_as_they_are_alone(tmp_path):
    archive = build_means(tmp_path, methods=SEVERAL)
    variants = tuple(map(Variant, SEVERAL))
    with open_archive(archive) as pipeline:
        together = Asker(pipeline, variants).ask(png(ramp()), [0, 2])
        for variant, answer in zip(variants, together):
            (alone,) = Asker(pipeline, (variant,)).ask(png(ramp()), [0, 2])
            assert {**answer, "request_id": ""} == {**alone, "request_id": ""}
    assert [answer["explanations"][1]["target"]["index"] for answer in together] == [2] * len(SEVERAL)
    assert any(warning.get("explanation") == 1 for warning in together[-1]["warnings"])


def test_weights_are_drawn_from_the_last_layer_down_and_come_back(means):
    with open_archive(means) as pipeline:
        cascade, asker = Cascade(pipeline), Asker(pipeline, GRADCAM)
        content = png(ramp())
        pixels = asker.normalise([asker.read(content)])
        (answer,) = asker.ask(content, [0])
        target = Target(asker.predict(pixels).prediction(0), "")
        once, again = ([maps[0].grid for maps in cascade.maps(pixels, target, GRADCAM)] for _ in range(2))
        (unchanged,) = asker.ask(content, [0])
    assert len(once) == len(STAGES)
    assert all(np.array_equal(one, other) for one, other in zip(once, again))
    assert not np.allclose(once[-1], grid_of(answer), atol=1e-3)
    assert answer["explanations"] == unchanged["explanations"]
