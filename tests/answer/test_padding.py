"""What a user gets of a picture that the network saw with padding: region, boxes and overlay stay on the picture."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from input_archives import ask, build_means, encode, ramp


@pytest.fixture(scope="module")
def letterboxed(build_once):
    """A network for 32 x 48 pixels that is shown whole pictures on red bars; class 0 is red."""
    layout = {"pad": "letterbox", "resize": (32, 48), "crop": None, "pad_color": (255, 0, 0)}
    zero = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return build_once("letterboxed", lambda folder: build_means(folder, **layout, **zero))


def overlay_of(explanation):
    return np.asarray(Image.open(BytesIO(base64.b64decode(explanation["images"]["overlay"].partition(",")[2]))), int)


def test_the_region_reaches_beyond_the_picture_by_the_padding(letterboxed):
    tall, wide = ask(letterboxed, encode(np.zeros((64, 16, 3), np.uint8)), encode(np.zeros((20, 60, 3), np.uint8)))
    assert tall["input"]["region"] == [-40, 0, 56, 64]
    assert wide["input"]["region"] == [0, -10, 60, 30]


def test_evidence_on_the_picture_is_drawn_where_it_is_and_evidence_on_padding_is_in_no_box(letterboxed):
    picture = np.zeros((64, 48, 3), np.uint8)
    picture[48:, 32:] = (255, 0, 0)  # as red as the bars beside the picture
    (answer,) = ask(letterboxed, encode(picture), explain="true", target="0", format="boxes,overlay,grid")
    (explanation,) = answer["explanations"]
    grid = np.array(explanation["grid"])
    assert answer["input"]["region"] == [-24, 0, 72, 64]
    assert grid[:, :12].min() == grid[:, 36:].min() == 1  # the bars
    assert grid[25:, 29:].min() == 1
    assert grid[:23, 12:36].max() == 0
    # One part, since the red corner meets the right bar: the box ends with the picture. The left bar has none.
    assert explanation["boxes"] == [[32, 0, 48, 64]] or explanation["boxes"] == [[32, 48, 48, 64]]
    apart = np.abs(overlay_of(explanation) - overlay_of(explanation)[5, 20]).sum(axis=2)
    assert apart[52:, 36:44].min() > 100
    assert apart[8:40, 6:26].max() < 60


def test_a_crop_larger_than_the_picture_shows_black_around_it(build_once):
    layout = {"resize": None, "crop": (40, 50), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    archive = build_once("larger_crop", lambda folder: build_means(folder, **layout))
    (answer,) = ask(archive, encode(ramp()))
    assert answer["input"]["region"] == [-13, -8, 37, 32]
    found = [entry["score"] for entry in sorted(answer["predictions"], key=lambda entry: entry["index"])]
    assert found == pytest.approx(ramp().sum(axis=(0, 1)) / 255 / (40 * 50), abs=1e-4)


def test_the_signals_are_of_what_the_network_was_shown(letterboxed):
    from camserve.build.mar.unpack import open_archive
    from monitoring_parts import collect

    with open_archive(letterboxed) as pipeline:
        (rows,) = collect(pipeline, [encode(np.zeros((64, 16, 3), np.uint8))])
    assert rows.values.shape[0] == 1
    assert rows.signal_inputs.column("brightness")[0] == pytest.approx(0.299 * 40 / 48, abs=0.02)
