"""docs/recipe.md is what the code says, and its examples are read."""

from dataclasses import fields

import pytest

from camserve.strict import read
from recipe_page import PAGE, SECTIONS, examples, read_purposes, render_recipes

NEEDED = {"Keys": ("name", "weights"), "expect": ("label",)}
TOGETHER = {  # keys whose example needs another beside it
    "channels": {"color": "gray", "mean": [0.5], "std": [0.5]},
    "color": {"channels": 1, "mean": [0.5], "std": [0.5]},
    "pad": {"resize": 320},
    "scale": {"mean": [127.5] * 3, "std": [64.0] * 3},
    "mean": {"channels": 1, "color": "gray", "std": [0.5]},
    "std": {"channels": 1, "color": "gray", "mean": [0.5]},
    "min_side": {"max_side": 10_000},
}


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == render_recipes(), "run .venv/bin/python scripts/studies/recipe_page.py"


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_has_a_meaning_and_an_example_that_is_read(title):
    (spec, shown) = next((spec, shown) for name, spec, shown in examples() if name == title)
    purposes = read_purposes(spec)
    assert sorted(shown) == sorted(field.name for field in fields(spec)) == sorted(purposes)
    for name, value in shown.items():
        assert purposes[name], name
        needed = {key: shown[key] for key in NEEDED.get(title, ())}
        read(spec, {**needed, **TOGETHER.get(name, {}), name: value}, title)
