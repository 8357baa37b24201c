"""The reports of the benchmarks: tables, pictures, JSON and pages."""

import json
import math
import xml.etree.ElementTree as Tree

import torch

from camserve.bench.engine import TOO_SLOW, EngineCell
from camserve.bench.engine_report import make_engine_report
from camserve.bench.pairs import Spread
from camserve.bench.report import (
    BenchReport,
    Table,
    describe_machine,
    format_spread,
    format_table,
    to_plain,
    write_docs,
    write_report_json,
)
from camserve.bench.served import LoadSummary, RateResult, ServerFindings
from camserve.bench.served_report import make_server_report
from camserve.bench.workloads import EXPLAINED, NAIVE_EXPLAINED, PLAIN, STOCK_PLAIN

HALF = Spread(0.002, 0.002, 0.002, 1)
ABOUT_ONE = Spread(1.02, 1.01, 1.04, 5)


def make_report(*cells):
    return make_engine_report("engine", cells, "camserve bench --engine", {"threads": "1"})


def test_a_table_has_one_row_a_model_and_one_column_a_batch():
    written = make_report(
        EngineCell("overhead", "big", 1, "explained / plain", ABOUT_ONE, HALF),
        EngineCell("overhead", "big", 8, "explained / plain", reason=TOO_SLOW),
    ).text()
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in written.splitlines() if line.startswith("|")]
    assert lines[0] == ["model", "batch 1", "batch 8", "plain ms, batch 1", "plain ms, batch 8"]
    assert lines[2] == ["big", "1.020 (1.010 to 1.040)", TOO_SLOW, "2.0", ""]
    assert written.count("Made by `camserve bench --engine`.") == 2


def test_columns_are_aligned():
    assert format_table(Table("t", ("a", "bb"), [("ccc", "d")])) == "| a   | bb |\n|-----|----|\n| ccc | d  |\n"


def test_a_spread_of_one_measurement_has_no_quartiles():
    assert format_spread(Spread(1.0, 1.0, 1.0, 1)) == "1.000"
    assert format_spread(Spread(2.0, 1.5, 2.5, 4), 1) == "2.0 (1.5 to 2.5)"
    assert format_spread(None) == "not measured"


def test_json_holds_everything_and_only_numbers_that_are_numbers(tmp_path):
    report = BenchReport(
        "x", "c", {"a": "b"}, [], [], [EngineCell("peers", "m", 8, "w", Spread(math.nan, 1.0, math.inf, 2))]
    )
    write_report_json(report, tmp_path / "new" / "x.json")
    written = json.loads((tmp_path / "new" / "x.json").read_text())
    assert written["setting"] == {"a": "b"}
    assert written["data"][0]["ratio"] == {"median": None, "low": 1.0, "high": None, "count": 2}
    assert to_plain((1, {2: (3.0,)})) == [1, {"2": [3.0]}]


def test_docs_show_every_picture(tmp_path):
    report = make_report(
        EngineCell("overhead", "small", 1, "explained / plain", ABOUT_ONE, HALF),
        EngineCell("overhead", "small", 2, "explained / plain", ABOUT_ONE, HALF),
        EngineCell("targets", "small", 8, "2 / 1", ABOUT_ONE, HALF),
        EngineCell("peers", "small", 8, "camserve", ABOUT_ONE, HALF),
        EngineCell("peers", "small", 8, "captum", ABOUT_ONE, HALF),
    )
    paths = write_docs(report, tmp_path)
    page = (tmp_path / "engine.md").read_text()
    assert {path.name for path in paths} == {
        "engine.md",
        "engine-overhead.svg",
        "engine-targets.svg",
        "engine-peers-small.svg",
    }
    for path in paths[1:]:
        assert f"]({path.name})" in page
        Tree.parse(path)


def test_the_setting_names_machine_and_versions():
    found = describe_machine(torch.device("cpu"))
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["threads"] == str(torch.get_num_threads())
    assert "cores" in found["processor"]
    assert "gpu" not in found


def test_the_server_report_has_all_tables_and_pictures(tmp_path):
    one = Spread(10.0, 9.0, 11.0, 3)
    names = (EXPLAINED.name, PLAIN.name, STOCK_PLAIN.name)
    findings = ServerFindings(
        1.0,
        {name: LoadSummary(one, one, one, 1200.0, 0) for name in names},
        {"a / b": one},
        {PLAIN.name: one},
        one,
        [RateResult(EXPLAINED.name, 5.0, 80.0, 160.0, 0), RateResult(NAIVE_EXPLAINED.name, 1.0, math.nan, math.nan, 2)],
        {"camserve": {"ready_seconds": 8.0, "resident_bytes": 7e8, "archive_bytes": 1e8}},
        {"decode": 2.0, "forward": 30.0},
        {"seconds": 6.0, "bytes": 4.5e6, "status": 200},
    )
    report = make_server_report(findings, "resnet50", "camserve bench --server", {})
    assert len(report.tables) == 7
    assert ("pytorch-grad-cam, explained", "1.00", "not measured", "not measured", "2") in report.tables[3].rows
    for path in write_docs(report, tmp_path)[1:]:
        Tree.parse(path)
