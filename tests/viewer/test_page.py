"""The page as it is written: one file, whose policy lets its own script and style run and nothing else."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest

from camserve import warning_codes
from camserve.answer.render.palette import PALETTE_OF
from camserve.viewer.page import FOLDER, SCRIPTS, render_page
from test_docs import WARNINGS

MOST_BYTES = 62_000  # without a model description
MOST_LINES, MOST_CHARACTERS = 250, 120
HOSTILE = "</script><script>alert(1)</script><!--<script>@STYLE@\u2028\ud800"


def description(**changes):
    return {"labels": ["cat", "dog"], "heads": {"a": {"task": "multiclass", "labels": ["cat"]}}, **changes}


def html_of(page):
    return page.body.decode()


def facts_of(page):
    (found,) = re.findall('<script type="application/json" id="facts">(.*?)</script>', html_of(page), re.DOTALL)
    return json.loads(found)


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_names_the_script_and_the_style_of_the_page_and_nothing_from_elsewhere():
    page = render_page(description())
    (script,) = re.findall('<script type="module">(.*?)</script>', html_of(page), re.DOTALL)
    (style,) = re.findall("<style>(.*?)</style>", html_of(page), re.DOTALL)
    assert page.policy.split("; ") == [
        "default-src 'none'",
        f"script-src {digest(script)}",
        f"style-src {digest(style)}",
        "connect-src 'self'",
        "img-src blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    assert f'http-equiv="Content-Security-Policy" content="{page.policy}"' in html_of(page)
    assert page.headers["Content-Security-Policy"] == f"{page.policy}; frame-ancestors 'none'"
    assert all(value.isascii() and "\n" not in value for value in page.headers.values())


def test_the_page_asks_for_no_other_file_and_is_small():
    page = html_of(render_page(None))
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"\b(src|srcset)=", page)
    assert re.findall(r"<link[^>]*>", page) == ['<link rel="icon" href="data:,">']
    assert len(page.encode()) < MOST_BYTES


def test_a_label_cannot_end_the_element_that_holds_it():
    page = render_page(description(labels=[HOSTILE]))
    assert facts_of(page)["description"]["labels"] == [HOSTILE]
    assert html_of(page).count("<script") == html_of(render_page(description())).count("<script")
    assert html_of(page).count("<style>") == 1


def test_without_a_description_the_page_holds_nothing_of_a_model():
    assert facts_of(render_page(None)) is None


def test_a_list_of_labels_that_is_too_long_is_left_out():
    page = render_page(description(labels=["x" * 100_000]), limit=100_000)
    assert len(page.body) < 100_000
    assert facts_of(page)["description"]["labels"] == []
    assert facts_of(page)["description"]["heads"] == {"a": {"task": "multiclass", "labels": []}}


def test_samples_are_left_out_where_the_page_would_be_too_long():
    sample = "data:image/jpeg;base64," + "A" * 100_000
    assert facts_of(render_page(description(), samples=[sample]))["samples"] == [sample]
    assert facts_of(render_page(description(), limit=100_000, samples=[sample]))["samples"] == []


def test_the_palettes_are_those_of_drawn_pictures():
    assert facts_of(render_page(description()))["palettes"] == {
        name: {"anchors": palette.anchors, "lowest": palette.lowest} for name, palette in PALETTE_OF.items()
    }


def test_every_warning_is_put_into_plain_words():
    advised = set(re.findall(r"^  ([A-Z_]+): \[", (FOLDER / "advice.js").read_text(), re.MULTILINE))
    assert warning_codes.LOW_CONFIDENCE.code in advised
    assert advised == WARNINGS


def test_nothing_of_an_answer_is_inserted_as_markup():
    written = "".join(path.read_text() for path in FOLDER.glob("*.js"))
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function("):
        assert way not in written
    for store in ("localStorage", "sessionStorage", "indexedDB", "document.cookie"):
        assert store not in written


def test_every_script_is_run_and_none_is_too_long_to_be_read_at_once():
    files = sorted(FOLDER.glob("*.js"))
    assert {path.stem for path in files} == set(SCRIPTS)
    assert max(len(path.read_text().splitlines()) for path in files) <= MOST_LINES
    lines = [line for path in FOLDER.iterdir() for line in path.read_text().splitlines()]
    assert max(map(len, lines)) <= MOST_CHARACTERS


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: apt-get install nodejs")
def test_the_script_is_a_module(tmp_path):
    (tmp_path / "page.mjs").write_text("".join((FOLDER / f"{name}.js").read_text() for name in SCRIPTS))
    done = subprocess.run(["node", "--check", tmp_path / "page.mjs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
