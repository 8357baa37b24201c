"""docs/tour.ipynb runs from top to bottom."""

import ast
import json
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"
NOTEBOOK = json.loads(TOUR.read_text())
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run(cell, names):
    """Run a cell as a notebook does; return the value of its last line, where that is an expression."""
    tree = ast.parse(cell)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return last and eval(compile(last, "cell", "eval"), names)


@pytest.fixture(scope="module")
def shown():
    names = {}
    return [run(cell, names) for cell in CELLS], names


def test_the_notebook_holds_no_answers_of_an_earlier_run():
    assert all(cell.get("outputs", []) == [] for cell in NOTEBOOK["cells"])
    assert TOUR.stat().st_size < 10_000


@pytest.mark.server  # a network of common size
def test_every_cell_shows_what_it_says(shown, capsys):
    values, names = shown
    pages = [value._repr_html_() for value in values if hasattr(value, "_repr_html_")]
    assert len(pages) == 2
    assert "espresso" in pages[0]
    assert pages[1].count("<img") == len(names["methods"])
    assert sum(hasattr(value, "getpixel") for value in values) == 2
    assert names["explainer"].layer == "_swish"
