"""What is written below a drawn picture."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from camserve.answer.caption import write_caption, write_legend
from camserve.answer.render import DRAWERS, Caption, Scene, draw
from camserve.answer.render.text import draw_text, find_font, fold_marks, wrap_text

ESPRESSO = {"index": 967, "label": "espresso", "probability": 0.951062}
MUG = {"index": 504, "label": "coffee mug", "probability": 0.01}
CAPTION = Caption("espresso (967) 0.951", "gradcam: evidence for it", "WEAK_EVIDENCE")


def scene(width=300, height=200, caption=CAPTION, **changes):
    photo = Image.new("RGB", (width, height), "red")
    return Scene(photo, (0, 0, width, height), np.eye(7, dtype=np.float32), caption=caption, **changes)


def test_a_caption_says_class_probability_method_and_warnings():
    assert write_caption(ESPRESSO, None, "gradcam", "for", ["WEAK_EVIDENCE"]) == CAPTION
    assert write_caption(ESPRESSO, None, "layercam", "against", []).question == "layercam: evidence against it"
    signed = write_caption(ESPRESSO, MUG, "gradcam", "signed", ["A", "B", "A"])
    assert signed == Caption(
        "espresso (967) 0.951", "gradcam: evidence for and against it rather than coffee mug (504)", "A, B"
    )
    some = {"asked": "top:5", "count": 5, "share": 0.41}
    assert write_caption(ESPRESSO, None, "gradcam", "for", [], some).question == (
        "gradcam: evidence for it, in channels top:5 (41% of all)"
    )
    many = {"asked": ",".join(map(str, range(40))), "count": 40, "share": 0.9}
    assert write_caption(ESPRESSO, None, "gradcam", "for", [], many).question.endswith("in 40 channels (90% of all)")
    unknown = {**some, "share": None}
    assert write_caption(ESPRESSO, None, "gradcam", "for", [], unknown).question.endswith("in channels top:5")
    one = {"asked": "activation:17", "count": 1, "share": None}
    assert write_caption(ESPRESSO, None, "gradcam", "for", [], one).question == (
        "activation of channel 17, whatever the class"
    )
    weight = {"index": 0, "label": "weight", "value": 2.5, "unit": "kg"}
    assert write_caption(weight, None, "gradcam", "for", []).subject == "weight (0) 2.5 kg"


def test_a_legend_says_what_one_stands_for():
    assert write_legend("ok", 0.725, 1.0, None) == "1 = 0.725"
    assert write_legend("ok", 0.5, 0.25, None) == "weak: 1 = 2"
    assert write_legend("blank", 0.0, 1.0, None) == "blank"
    assert write_legend("ok", 1.0, 1.0, "pytorch-grad-cam") == "pytorch-grad-cam"


@pytest.mark.parametrize("name", DRAWERS)
@pytest.mark.parametrize("size", [(300, 200), (40, 300), (1024, 20)])
def test_a_caption_stands_below_the_picture_and_changes_no_pixel_of_it(name, size):
    bare, captioned = draw(name, scene(*size, caption=None)), draw(name, scene(*size))
    assert captioned.crop((0, 0, *bare.size)).tobytes() == bare.tobytes()
    assert captioned.height > bare.height + 3 * 12
    legend = draw(name, scene(*size, legend="1 = 0.5"))
    assert (legend.height > captioned.height) == (name != "mask")


def test_every_line_of_a_caption_is_drawn_inside_the_strip():
    words = Caption("espresso", "evidence for it", "WEAK")
    drawn = draw("mask", scene(caption=words))
    strip = np.asarray(drawn.crop((0, 200, *drawn.size)).convert("L"))
    dark = (strip < 140).any(axis=1)
    assert np.count_nonzero(np.diff(dark.astype(int)) == 1) == 3  # three lines, white between them
    assert not (strip[:, [0, -1]] < 140).any()


@pytest.mark.parametrize("letter", "äöüÄÖÜéèêčñ")
def test_an_accent_is_drawn_above_its_letter(letter):
    plain = fold_marks(letter).letters
    assert plain.isascii()
    accented, bare = np.asarray(draw_text(letter, 24)), np.asarray(draw_text(plain, 24))
    extra = accented.shape[0] - bare.shape[0]
    assert extra > 0
    assert (accented[extra:] >= bare).all()  # the letter itself is whole
    assert accented.astype(int).sum() > bare.astype(int).sum() + 255
    assert accented.tobytes() != np.asarray(draw_text({"ä": "ö"}.get(letter, "ä"), 24)).tobytes()


def test_german_is_readable_and_other_letters_are_boxes():
    assert fold_marks("Größe").letters == "Grosse"
    box = np.asarray(draw_text("☃", 24))
    assert (np.asarray(draw_text("猫", 24)) == box).all()
    assert box.any()


def test_control_characters_and_no_text_at_all_are_drawn():
    assert fold_marks("a\nb\u202ec").letters == "a b c"
    assert draw_text("", 12).width >= 1
    assert draw("overlay", scene(caption=Caption("", "", ""))).height > 200


@pytest.mark.parametrize("text", ["espresso " * 60, "x" * 5000, "W" * 30 + " " + "i" * 30, "猫" * 200, "a b"])
def test_lines_fit_and_what_is_cut_off_is_said(text):
    lines = wrap_text(text, 16, 200, 3)
    assert 1 <= len(lines) <= 3
    assert max(draw_text(line, 16).width for line in lines) <= 201
    assert lines[-1].endswith("...") == (len("".join(lines)) < len(text.replace(" ", "")))


def test_a_caption_is_drawn_where_pillow_has_no_freetype(tmp_path):
    script = """
import sys
sys.modules["PIL._imagingft"] = None
import numpy as np
from PIL import Image
from camserve.answer.render import Caption, Scene, draw
caption = Caption("Größe 猫 (3) 0.5", "gradcam: " + "why " * 90, "X" * 500)
photo = Image.new("RGB", (300, 150), "red")
drawn = draw("overlay", Scene(photo, (0, 0, 300, 150), np.eye(7, dtype=np.float32), legend="1 = 2", caption=caption))
assert drawn.height > 250
assert (np.asarray(drawn.crop((0, 150, *drawn.size))) < 100).all(axis=2).sum() > 50
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_font_is_that_of_pillow():
    assert find_font(20).getname()[0] == "Aileron"
