"""The gallery: one file that asks for nothing, whatever labels and file names hold."""

import base64
import hashlib
import re

import pytest
from browser_needed import chromium, needs_chromium

from camserve.bulk.gallery import FOLDER, write_gallery
from camserve.bulk.options import Look
from camserve.bulk.rows import Row
from camserve.bulk.sheet import write_sheet
from camserve.bulk.sources import Photo
from camserve.bulk.words import row_lines
from many_photos import write_photo

HOSTILE = "\"'><script>window.stolen = 1</script><img src=x onerror=window.stolen=1>@STYLE@\u202e\ud800"


def answer(label, probability, warnings=()):
    target = {"index": 1, "label": label, "probability": probability, "score": 1.0}
    return {
        "input": {"width": 80, "height": 60, "format": "PNG", "region": [10, 0, 70, 60]},
        "predictions": [target, {**target, "label": "other", "probability": 0.01}],
        "explanations": [
            {
                **{"status": "ok", "method": "gradcam", "evidence": "for", "contrast": None, "scale": 0.5},
                **{"target": {**target, "asked": "predicted"}, "grid": [[0, 1], [0.5, 0]], "strength": probability},
            }
        ],
        "warnings": [{"code": code, "message": f"{code} {HOSTILE}"} for code in warnings],
    }


@pytest.fixture
def rows(tmp_path):
    answers = [answer("cat", 0.9), answer("dog", 0.3, ["LOW_CONFIDENCE"]), answer(HOSTILE, 0.6)]
    paths = [write_photo(tmp_path / f"{number}.png", number) for number in range(3)]
    found = [Row(Photo(str(path), path.stem), answer) for path, answer in zip(paths, answers)]
    return [*found, Row(Photo(HOSTILE, "x"), error={"code": "bad_image", "message": HOSTILE})]


@pytest.fixture
def page(rows, tmp_path):
    assert write_gallery(rows, tmp_path / "gallery.html", f"run {HOSTILE}", Look()) == 4
    return tmp_path / "gallery.html"


def test_the_gallery_holds_no_markup_of_labels_names_or_messages(page):
    text = page.read_text()
    assert text.count("<script") == 1
    assert "<img src=x" not in text
    assert text.count("<figure") == 4
    assert text.count("@STYLE@") >= 4  # a mark in a label is no mark


def test_the_gallery_asks_for_nothing_and_runs_its_own_script_alone(page):
    text = page.read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    parts = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert parts["default-src"] == ["'none'"]
    assert parts["img-src"] == ["data:"]
    for kind, element in (("js", "script"), ("css", "style")):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert content == (FOLDER / f"gallery.{kind}").read_text()
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert parts[f"{element}-src"] == [f"'sha256-{digest}'"]
    assert set(re.findall(r'(?:src|href)="([^"]{5})', text)) == {"data:"}
    assert not re.search(r"https?://|@import|url\(", text.replace(HOSTILE, ""))


def test_scripts_insert_no_markup():
    script = (FOLDER / "gallery.js").read_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert way not in script
    lines = [line for path in FOLDER.iterdir() for line in path.read_text().splitlines()]
    assert max(map(len, lines)) <= 120


def test_a_map_of_channels_is_called_one_in_the_gallery_and_in_the_terminal(rows, tmp_path):
    words = {
        ("activation:3", None): ("activation of channel 3, whatever the class", "activation of channel 3, whatever"),
        ("top:2", 0.75): (
            "gradcam: evidence for it, in channels top:2 (75% of all)",
            "gradcam for cat, in channels top:2 (75% of all): strongest at",
        ),
    }
    for (asked, share), (written, said) in words.items():
        explanation = rows[0].answer["explanations"][0]
        explanation["of_channels"] = {"asked": asked, "count": 1, "channels": [3], "share": share}
        write_gallery(rows[:1], tmp_path / "one.html", "one", Look())
        assert f"<p>{written}" in (tmp_path / "one.html").read_text()
        assert any(line.startswith(f"  {said}") for line in row_lines(rows[0]))


@needs_chromium
@pytest.mark.server
def test_a_browser_sorts_filters_and_enlarges_and_runs_nothing_of_a_label(page):
    with chromium() as browser:
        shown = browser.new_page()
        complaints = []
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(page.as_uri())
        titles = shown.locator("figure:visible h2")

        def first_words():
            return [text[:3] for text in titles.all_inner_texts()]

        assert first_words() == ["cat", "dog", "\"'>", "bad"]
        shown.select_option("#sort", "probability-up")
        assert first_words() == ["dog", "\"'>", "cat", "bad"]
        shown.select_option("#sort", "warnings-down")
        assert set(first_words()[:2]) == {"dog", "bad"}
        shown.select_option("#sort", "order")
        shown.select_option("#label", "dog")
        assert first_words() == ["dog"]
        assert shown.inner_text("#count") == "1 of 4"
        shown.select_option("#label", "")
        shown.fill("#from", "0.5")
        assert first_words() == ["cat", "\"'>"]
        shown.fill("#from", "")
        shown.select_option("#warning", "LOW_CONFIDENCE")
        assert first_words() == ["dog"]
        shown.select_option("#warning", "none")
        assert first_words() == ["cat", "\"'>"]
        shown.fill("#path", "2.png")
        assert first_words() == ["\"'>"]
        shown.locator("figure:visible button").click()
        assert shown.locator("dialog[open] img").evaluate("image => image.naturalWidth") > 100
        shown.click("#close")
        assert shown.locator("dialog[open]").count() == 0
        assert shown.evaluate("window.stolen") is None
        assert complaints == []


def test_a_sheet_shows_the_first_pictures_and_errors(rows, tmp_path):
    from PIL import Image

    assert write_sheet(rows, tmp_path / "sheet.png", Look()) == 4
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 3 * 212 + 12
    assert write_sheet(rows * 80, tmp_path / "sheet.png", Look()) == 200
