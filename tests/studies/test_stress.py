"""The stress report: a table that replaces the last one and leaves the rest of the page alone."""

from stress_runs import REPORT, Row, table, write_report

ROWS = [Row("a kill", "none lost", "0 lost", True), Row("a leak", "caught", "missed", False)]


def test_the_table_says_what_holds():
    assert table(ROWS).splitlines()[2:] == [
        "| a kill | none lost | 0 lost | yes |",
        "| a leak | caught | missed | **no** |",
    ]


def test_a_new_table_replaces_the_last_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- stress -->\nold\n<!-- /stress -->\ntail\n")
    write_report(ROWS[:1], page)
    write_report(ROWS[1:], page)
    assert page.read_text() == f"head\n<!-- stress -->\n{table(ROWS[1:])}\n<!-- /stress -->\ntail\n"


def test_the_page_has_a_place_for_the_table():
    assert REPORT.read_text().count("stress -->") == 2
