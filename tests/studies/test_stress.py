"""The stress report: a table that replaces the last one and leaves the rest of the page alone."""

from stress_runs import STRESS_PAGE, format_stress_table, write_stress_table
from stress_scenarios import StressRow

ROWS = [StressRow("a kill", "none lost", "0 lost", True), StressRow("a leak", "caught", "missed", False)]


def test_the_table_says_what_holds():
    assert format_stress_table(ROWS).splitlines()[2:] == [
        "| a kill | none lost | 0 lost | yes |",
        "| a leak | caught | missed | **no** |",
    ]


def test_a_new_table_replaces_the_last_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- stress -->\nold\n<!-- /stress -->\ntail\n")
    write_stress_table(ROWS[:1], page)
    write_stress_table(ROWS[1:], page)
    assert page.read_text() == f"head\n<!-- stress -->\n{format_stress_table(ROWS[1:])}\n<!-- /stress -->\ntail\n"


def test_the_page_has_a_place_for_the_table():
    assert STRESS_PAGE.read_text().count("stress -->") == 2
