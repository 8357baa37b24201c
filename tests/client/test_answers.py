"""Typed answers, and what is drawn from them."""

import dataclasses
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camserve.client.answers import Answer, Explanation, Prediction, Target, UploadedPicture, read_answer
from camserve.client.photos import read_photo
from camserve.errors import BadOption, ConfigError

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "answers.md").read_text()
HOSTILE = '<img src=x onerror="alert(1)">'
CUP = {"index": 1, "label": "cup", "probability": 0.9, "score": 3.5}
MAP = {
    "status": "ok",
    "method": "gradcam",
    "layer": "f",
    "evidence": "for",
    "target": {**CUP, "asked": "predicted"},
    "contrast": None,
    "grid": [[0.0, 1.0], [0.5, 0.25]],
    "scale": 2.0,
    "strength": 0.8,
    "boxes": [[0, 1, 2.5, 3]],
    "images": {"mask": "data:image/jpeg;base64,AAEC"},
    "balance": {"positive": 1.0, "negative": 0.0, "share_of_score": None},
    "signs": {"pp": 1, "pn": 0, "np": 0, "nn": 0},
    "of_channels": {"asked": "top:2", "count": 2, "channels": [5, 1], "share": 0.75, "new": 1},
    "new": 1,
}
BLOCK = {
    "model": {"name": "m", "version": "1.0", "weights": "sha256:1", "new": 1},
    "request_id": "7",
    "input": {"width": 40, "height": 20, "format": "PNG", "region": [10, 0, 30, 20], "new": 1},
    "predictions": [{**CUP, "new": 1}, {"index": 0, "label": HOSTILE, "probability": 0.1, "score": 1.0}],
    "explanations": [MAP],
    "warnings": [{"code": "SOME", "message": HOSTILE, "explanation": 0, "new": 1}],
    "new": [1],
}


@pytest.fixture
def photo(encoded):
    return encoded(40, 20, color=(10, 90, 200))


@pytest.fixture
def answer(photo):
    return read_answer(BLOCK, photo)


def fields_of(title):
    section = DOCUMENTED.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("An answer", Answer),
        ("The input of an answer", UploadedPicture),
        ("A prediction", Prediction),
        ("An explanation", Explanation),
    ],
)
def test_every_documented_field_is_typed_and_no_other(title, kind):
    assert {field.name for field in dataclasses.fields(kind)} - {"raw", "photo"} == fields_of(title)


def test_an_answer_is_read(answer):
    (explanation,) = answer.explanations
    assert answer.predictions[0] == Prediction(1, "cup", 3.5, 0.9)
    assert explanation.target == Target(1, "cup", 3.5, 0.9, asked="predicted")
    assert explanation.grid.dtype == np.float32
    assert explanation.grid.tolist() == MAP["grid"]
    assert not explanation.grid.flags.writeable
    assert (explanation.boxes, explanation.images) == (((0, 1, 2.5, 3),), {"mask": b"\x00\x01\x02"})
    assert (explanation.balance.share_of_score, explanation.signs.pp, explanation.shown) == (None, 1, 1.0)
    assert answer.warnings[0].explanation == 0
    assert answer.raw["new"] == [1]


def test_answers_are_equal_only_where_their_maps_are(answer, photo):
    other = {**MAP, "grid": [[0.0, 1.0], [0.5, 0.26]]}
    assert answer == read_answer(BLOCK, photo)
    assert answer != read_answer({**BLOCK, "explanations": [other]}, photo)


def test_a_value_of_a_regression_is_said_with_its_unit():
    assert Prediction(0, "age", 41.5, value=41.5, unit="years").meaning == "41.5 years"


def test_a_map_is_drawn_where_it_lies(answer):
    plain, drawn = Image.new("RGB", (40, 20), (10, 90, 200)), answer.overlay()
    assert drawn.size == plain.size
    assert len(set(drawn.getpixel((3, 10)))) == 1  # outside the region: grey
    assert len(set(drawn.getpixel((25, 4)))) > 1
    assert answer.overlay(size=20).size == (20, 10)
    assert answer.overlay(kind="heatmap", palette="viridis").getpixel((3, 10)) == (128, 128, 128)


def test_weak_evidence_is_drawn_weak(answer, photo):
    faint = read_answer({**BLOCK, "explanations": [{**MAP, "shown": 0.1}]}, photo)
    colours = [shown.overlay(kind="heatmap").getpixel((29, 0)) for shown in (answer, faint)]
    assert colours[0] != colours[1]
    compared = read_answer({**BLOCK, "explanations": [{**MAP, "shown": 0.1, "compat": "other"}]}, photo)
    assert compared.overlay(kind="heatmap").getpixel((29, 0)) == colours[0]


@pytest.mark.parametrize(
    ("asked", "share", "subject", "caption"),
    [
        ("activation:3", None, "activation of channel 3, whatever the class", "activation of channel 3, whatever"),
        ("1,5", 0.75, "cup, in channels 1,5 (75% of all)", "gradcam: cup, in channels 1,5 (75% of all)"),
        ("1,5", None, "cup, in channels 1,5", "gradcam: cup, in channels 1,5, strength"),
    ],
)
def test_a_map_of_channels_is_called_one_in_a_notebook(photo, asked, share, subject, caption):
    of_channels = {"asked": asked, "count": 2, "channels": [5, 1], "share": share}
    shown = read_answer({**BLOCK, "explanations": [{**MAP, "of_channels": of_channels}]}, photo)
    assert shown.explanations[0].subject == subject
    assert f"<figcaption>{caption}" in shown._repr_html_()


def test_what_cannot_be_drawn_is_said(answer, photo):
    with pytest.raises(ConfigError, match="has no explanation 1; it has 1"):
        answer.overlay(1)
    skipped = read_answer({**BLOCK, "explanations": [{**MAP, "grid": None, "status": "skipped"}]}, photo)
    with pytest.raises(ConfigError, match="status is skipped"):
        skipped.overlay()
    assert skipped._repr_png_() is None
    with pytest.raises(BadOption, match="format 'mosaic' is not one of"):
        answer.overlay(kind="mosaic")


def test_a_notebook_gets_one_piece_of_html_without_a_label_as_markup(answer):
    html = answer._repr_html_()
    assert HOSTILE not in html
    assert html.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;") == 2
    assert set(re.findall(r"""(?:src|href)=["'](\w+:)""", html)) == {"data:"}
    assert "gradcam: cup, in channels top:2 (75% of all), strength 0.80" in html
    assert Image.open(BytesIO(answer._repr_png_())).size == (40, 20)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
def test_an_array_is_sent_as_it_is(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(np.asarray(Image.open(BytesIO(read_photo(array)))), array.reshape(shape).squeeze())


def test_a_pil_picture_is_sent_upright(tmp_path):
    turned = Image.new("RGB", (30, 20), (1, 2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as opened:
        sent = Image.open(BytesIO(read_photo(opened)))
    assert sent.size == (20, 30)
    assert 0x0112 not in sent.getexif()
    assert Image.open(BytesIO(read_photo(Image.new("CMYK", (5, 5))))).mode == "RGB"


def test_paths_and_bytes_are_sent_as_they_are(tmp_path, photo):
    (tmp_path / "a.png").write_bytes(photo)
    assert read_photo(tmp_path / "a.png") == read_photo(str(tmp_path / "a.png")) == read_photo(photo) == photo


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"not \(3, 20, 30\) uint8"),
        (np.zeros((20, 30, 3)), r"not \(20, 30, 3\) float64"),
        (np.zeros((0, 30, 3), np.uint8), r"not \(0, 30, 3\) uint8"),
        ("https://a.b/c.jpg", "is not fetched: give its bytes"),
        ("no/such.jpg", "cannot read 'no/such.jpg': No such file"),
        ("a\0b", "cannot read"),
        (3, "not a int"),
        (None, "not a NoneType"),
    ],
)
def test_what_is_no_photo_is_refused_in_one_line(wrong, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read_photo(wrong)
    assert "\n" not in str(caught.value)
