"""The stress report: tables that replace the last ones and leave the rest of the page alone."""

from collections import Counter

import stress_attacks
from stress_attacks import ATTACKS
from stress_hostile import AttackRow, GoodClient
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
    for table in ("first", "second"):
        write_stress_table(table, page, "stress")
    assert page.read_text() == "head\n<!-- stress -->\nsecond\n<!-- /stress -->\ntail\n"


def test_the_page_has_places_for_the_tables():
    assert STRESS_PAGE.read_text().count("stress -->") == 2
    assert STRESS_PAGE.read_text().count("hostile -->") == 2
    assert STRESS_PAGE.read_text().count("hostile-stock -->") == 2


def attacked(answers, seconds=(0.1, 2.9), lost=None, lives=True):
    return AttackRow("bombs", Counter(answers), GoodClient(None, list(seconds), Counter(lost or {})), 5_000_000, lives)


def test_an_attack_holds_where_nobody_noticed_it():
    row = attacked({413: 8, 503: 1})
    assert row.columns() == ["bombs", "8 x 413, 1 x 503", "2", "0", "1.50 / 2.90", "5 MB", "yes"]
    assert not attacked({500: 1}).holds
    assert not attacked({0: 1}).holds
    assert not attacked({413: 8}, seconds=(0.1, 3.1)).holds
    assert not attacked({413: 8}, lost={"wrong": 1}).holds
    assert not attacked({413: 8}, lives=False).holds


def test_every_attack_can_be_made(monkeypatch):
    monkeypatch.setattr(stress_attacks, "LARGEST", (500, 499))  # as large as they are they take seconds
    for name, make in ATTACKS.items():
        assert make(), name
