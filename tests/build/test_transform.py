"""An archive with a transform of its own: the network's input is what it returns, and a failure is its row's alone."""

import numpy as np
import pytest

from camserve.build.mar.unpack import open_archive
from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from input_archives import ask, build_means, encode, scores
from monitoring_parts import collect

CODE = """

import numpy as np


def right_half(picture):
    "Two channels, red and green of the right half; a picture that is all black is refused."
    colors = np.asarray(picture.resize((16, 16)), np.float32)
    if not colors.any():
        raise ValueError("no light")
    if colors[0, 0].tolist() == [1, 1, 1]:
        return colors
    half = picture.crop((picture.width // 2, 0, picture.width, picture.height)).resize((8, 16))
    array = np.moveaxis(np.asarray(half, np.float32)[:, :, :2], 2, 0)
    return array, (picture.width // 2, 0, picture.width, picture.height)


def whole(picture):
    return np.asarray(picture.resize((8, 16)), np.float32)[None]
"""
SIZE = {"resize": None, "crop": (16, 8)}


@pytest.fixture(scope="module")
def halves(build_once):
    return build_once(
        "halves", lambda folder: build_means(folder, CODE, channels=2, transform="net:right_half", **SIZE)
    )


def split(left, right):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16], picture[:, 16:] = left, right
    return encode(picture)


def test_the_network_is_shown_what_the_transform_returns_and_maps_cover_its_region(halves):
    options = {"explain": "true", "target": "0", "format": "boxes,grid"}
    (answer,) = ask(halves, split((200, 200, 0), (50, 100, 0)), **options)
    assert scores(answer) == [50, 100]
    assert answer["input"]["region"] == [16, 0, 32, 32]
    assert answer["explanations"][0]["boxes"] == [[16, 0, 32, 32]]
    assert np.shape(answer["explanations"][0]["grid"]) == (16, 8)


def test_a_transform_that_fails_refuses_its_row_alone(halves):
    good = split((9, 9, 9), (50, 100, 0))
    answers = ask(halves, good, encode(np.zeros((32, 32, 3), np.uint8)), encode(np.ones((32, 32, 3), np.uint8)), good)
    assert scores(answers[0]) == scores(answers[3]) == [50, 100]
    raised, shaped = answers[1]["error"], answers[2]["error"]
    assert raised["code"] == shaped["code"] == "model_failed"
    assert raised["message"] == "input.transform failed on this picture (ValueError); the log says more"
    assert shaped["message"] == "input.transform returned an array of shape (16, 16, 3), not (2, 16, 8)"


def test_signals_are_of_the_region_that_the_transform_kept(halves):
    with open_archive(halves) as pipeline:
        (rows,) = collect(pipeline, [split((255, 255, 255), (128, 128, 128))])
    assert rows.signal_inputs.column("brightness")[0] == pytest.approx(128 / 255, abs=0.01)


def test_a_transform_gets_grey_pictures_with_all_their_bits(build_once):
    settings = {"channels": 1, "color": "gray", "transform": "net:whole", **SIZE}
    archive = build_once("whole", lambda folder: build_means(folder, CODE, **settings))
    (answer,) = ask(archive, encode(np.full((20, 20), 20_128, np.uint16)))
    assert scores(answer)[0] == pytest.approx(20_128 / 257, abs=1e-3)
    assert answer["input"]["region"] == [0, 0, 20, 20]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("net:left_half", "input.transform net:left_half: there is no callable 'left_half'"),
        ("nowhere:left_half", "input.transform nowhere:left_half cannot be imported: No module named 'nowhere'"),
        ("right_half", "input.transform must be 'module:callable', not 'right_half'"),
        ("net:broken", r"returned an array of shape \(3, 4, 4\), not \(2, 16, 8\)"),
        ("net:elsewhere", "a region that is no part of the picture"),
    ],
)
def test_a_transform_that_cannot_work_is_found_at_build(tmp_path, transform, message):
    code = CODE + "\n\ndef broken(picture):\n    return np.zeros((3, 4, 4))\n"
    code += "\n\ndef elsewhere(picture):\n    return np.zeros((2, 16, 8)), (-9, 0, 0, 9)\n"
    with pytest.raises(ConfigError, match=message):
        build_means(tmp_path, code, channels=2, transform=transform, **SIZE)


@pytest.mark.parametrize("wrong", [{"pad": "square"}, {"scale": 255}, {"mean": (0.5, 0.5, 0.5)}, {"color": "bgr"}])
def test_settings_that_a_transform_would_not_obey_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"input.*{next(iter(wrong))}"):
        InputSpec(transform="a:b", **wrong)
