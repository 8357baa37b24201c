"""camserve report: what an audit log tells, as one file."""

import base64
import json
import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from camserve.build.baseline import quantile_bins
from camserve.cli import main
from camserve.cli.report import instant
from camserve.drift import chart
from camserve.drift.audit_log import count_bins, read_audit, reference_bins, sample_of
from camserve.drift.panels import PANELS, Traffic
from camserve.drift.report import drifting, drifts, report, worst
from camserve.errors import ConfigError
from camserve.monitor.baseline import Accuracy, Baseline, ClassBins, Provenance, Unusual
from camserve.monitor.signals import SIGNALS
from camserve.values import TRAITS

START = 1_800_000_000


def values(random, shifted=False):
    told = {name: float(random.uniform()) for name in SIGNALS}
    return {**told, "border": float(random.uniform(0.7, 1.0))} if shifted else told


@pytest.fixture(scope="module")
def baseline():
    random = np.random.default_rng(0)
    drawn = [values(random) for _ in range(2000)]
    return Baseline(
        signals={name: quantile_bins(np.array([each[name] for each in drawn]), 10) for name in SIGNALS},
        classes=ClassBins((2, 0), (1000, 600, 400)),
        unusual=Unusual(0.01, 0.01),
        shares={"ood": 0.01, "blank": 0.0, "atc": 0.8},
        provenance=Provenance("sha", "features", "gradcam", "1", "2", "2026-01-01", 2000),
        accuracy=Accuracy(0.8, 0.2),
        heatmap=((0.25, 0.25), (0.25, 0.25)),
    )


def line(number, signals, reason="sampled", outcome="ok", picture=False):
    told = {
        "schema": 1,
        "time": f"2027-01-15T{8 + number // 60:02d}:{number % 60:02d}:00.000+00:00",
        "request_id": f"r{number}",
        "model": {"name": "m", "version": "1"},
        "reason": reason,
        "outcome": outcome,
    }
    if outcome == "ok":
        told |= {
            "signals": signals,
            "flags": ["atc"] if signals["confidence"] > 0.2 else [],
            "predictions": [
                {"index": (2, 2, 0, 7)[number % 4], "label": "<cat>", "probability": signals["confidence"]}
            ],
            "explanations": [{"status": "ok"}],
            "timing_ms": {"decode": 2.0, "all": 9.0},
            "input": {"format": "PNG" if number % 4 else "JPEG", "width": 64, "height": 48},
        }
    if picture:
        buffer = BytesIO()
        Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
        told["thumbnail"] = base64.b64encode(buffer.getvalue()).decode()
        told["map"] = {"shape": [2, 2], "levels": base64.b64encode(bytes([15, 0, 0, 5])).decode()}
    return told


def write(path, lines):
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Eight hours: the evidence moves to the border after four; odd records are kept beside the sample."""
    random = np.random.default_rng(1)
    lines = [line(number // 4, values(random, number >= 960), picture=number % 200 == 0) for number in range(1920)]
    lines.append(line(100, {}, outcome="bad_image"))
    lines += [line(number, {**values(random), "energy": -9.0}, reason="ood") for number in (3, 4)]
    return read_audit([write(tmp_path_factory.mktemp("audit") / "audit-1.jsonl", lines)])


def test_records_are_read_in_order_and_the_blind_sample_is_told_apart(records):
    assert [record.instant for record in records] == sorted(record.instant for record in records)
    assert len(records) == 1923
    assert len(sample_of(records)) == 1921


def test_a_cloud_event_is_its_record(tmp_path, records):
    plain = line(0, {"confidence": 0.5})
    event = {"specversion": "1.0", "id": "x", "data": plain}
    one, other = (read_audit([write(tmp_path / name, [each])])[0] for name, each in (("a", plain), ("b", event)))
    assert one == other


def test_a_line_cut_by_a_crash_is_left_out_and_another_fault_is_named(tmp_path):
    good = json.dumps(line(0, {"confidence": 0.5}))
    (tmp_path / "cut.jsonl").write_text(good + "\n" + good[:50])
    (tmp_path / "first.jsonl").write_text(good[:50])  # killed over the first line of a new file
    assert len(read_audit([tmp_path / "cut.jsonl", tmp_path / "first.jsonl"])) == 1
    (tmp_path / "bad.jsonl").write_text("{}\n" + good)
    with pytest.raises(ConfigError, match=r"bad.jsonl, line 1"):
        read_audit([tmp_path / "bad.jsonl"])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no records"):
        read_audit([tmp_path / "empty.jsonl"])


def test_bins_are_those_of_the_baseline(baseline, records):
    edge = baseline.signals["area"].edges[0]
    (record,) = [each for each in records if each.request_id == "r5"][:1]
    counts = count_bins([record], baseline)
    assert counts["area"]["b0"] == float(record.signals["area"] < edge)
    assert sum(counts["area"].values()) == 1
    assert counts["class"] == {"c0002": 1.0, "c0000": 0.0, "other": 0.0}
    assert list(reference_bins(baseline)["class"].values()) == [1000, 600, 400]


def test_the_feature_that_moved_leads_the_table(baseline, records):
    found = drifts(Traffic(sample_of(records), baseline))
    assert next(iter(found)) == "border"
    assert [name for name, each in found.items() if each.alarms] == ["border"]


def test_the_examples_show_the_drift_and_the_worst(baseline, records):
    shown = drifting(Traffic(sample_of(records), baseline))
    assert all(record.signals["border"] > 0.7 for record, _ in shown)
    assert [record.reason for record, _ in worst(records)[:2]] == ["ood", "ood"]


@pytest.mark.parametrize("title", PANELS)
def test_every_panel_is_well_formed(baseline, records, title):
    drawn = ElementTree.fromstring(PANELS[title](Traffic(sample_of(records), baseline)))
    assert len(list(drawn.iter())) > 5


def test_a_legend_stays_inside_its_picture():
    names = [f"a feature with a long name, {number}" for number in range(9)]
    drawn = ElementTree.fromstring(chart.lines({name: [(0.0, 1.0), (60.0, 2.0)] for name in names}))
    left, top, width, height = (float(each) for each in drawn.get("viewBox").split())
    told = {each.text: each for each in drawn.iter() if each.text in names}
    assert list(told) == names
    assert all(float(each.get("x")) + 5 * len(each.text) <= left + width for each in told.values())
    assert all(top + 8 <= float(each.get("y")) <= top + height for each in told.values())


def test_the_report_shows_another_clients_format(baseline, tmp_path):
    random = np.random.default_rng(3)
    lines = [line(number // 4, values(random)) for number in range(800)]
    for each in lines[400:]:
        each["input"]["format"] = "WEBP"
    shown = Traffic(read_audit([write(tmp_path / "a.jsonl", lines)]), baseline)
    drawn = PANELS["Pictures by format"](shown)
    legend = [each.text for each in ElementTree.fromstring(drawn).iter() if each.text in ("JPEG", "PNG", "WEBP")]
    assert legend == ["JPEG", "PNG", "WEBP"]


def test_the_report_shows_what_another_client_does_to_pictures(baseline, tmp_path):
    random = np.random.default_rng(3)
    lines = [line(number // 4, values(random)) for number in range(800)]
    for number, each in enumerate(lines[400:]):
        each["input"]["traits"] = ["grey", "rotated"] if number % 2 else ["grey"]
    changed = Traffic(read_audit([write(tmp_path / "changed.jsonl", lines)]), baseline)
    for each in lines:
        each["input"]["traits"] = []
    before = Traffic(read_audit([write(tmp_path / "before.jsonl", lines)]), baseline)
    svg = "{http://www.w3.org/2000/svg}"
    drawn = [
        [each.get("points") for each in ElementTree.fromstring(panel).iter(f"{svg}polyline")]
        for panel in (PANELS["Pictures that were converted, by trait"](each) for each in (before, changed))
    ]
    moved = [trait for trait, flat, now in zip(TRAITS, *drawn) if flat != now]
    assert moved == ["grey", "rotated"]


def test_the_report_is_one_file_that_asks_for_nothing(baseline, records):
    told = report(records, baseline, "m 1")
    assert "1921 sampled requests" in told
    assert "1920 ok, 1 bad_image" in told
    assert "<cat>" not in told
    assert "&lt;cat&gt;" in told
    assert told.replace("http://www.w3.org/2000/svg", "").count("http") == 0
    assert "tr class='alarm'><td>border" in told


def test_the_report_compares_with_a_clean_period(baseline, records):
    told = report(records, baseline, "m 1", instant("2027-01-15T12:00"))
    section = told.partition("<h2>After the clean period</h2>")[2].partition("<h2>")[0]
    assert re.findall(r"<tr class='alarm'><td>(\w+)<", section) == ["border"]
    assert "Values after 01-15 12:00 UTC" in section
    assert "A classifier tells the periods apart. Its score follows border (+" in section
    assert "After the clean period" not in report(records, baseline, "m 1")


def test_a_report_of_one_clean_day_says_that_nothing_changed(baseline, records):
    noon = instant("2027-01-15T12:00")
    clean = [record for record in records if record.instant < noon]
    section = report(clean, baseline, "m 1", instant("2027-01-15T12:00+02:00")).partition("After the clean")[2]
    assert "class='alarm'" not in section.partition("<h2>")[0]
    assert "A classifier cannot tell the periods apart." in section


def test_a_wrong_time_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["report", "a.jsonl", "--baseline", "m.mar", "--clean-until", "noon"])
    assert "'noon' is not a time such as 2027-01-15T12:00" in capsys.readouterr().err


def test_a_line_chart_puts_points_where_they_belong():
    drawn = ElementTree.fromstring(chart.lines({"a": [(0, 0.0), (10, 1.0)]}, alarm=0.5))
    line = next(each for each in drawn.iter() if each.tag.endswith("polyline"))
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in line.get("points").split())
    assert (x0, y0) == (chart.LEFT, chart.HEIGHT - chart.BOTTOM)
    assert (x1, y1) == (chart.WIDTH - chart.RIGHT, chart.TOP)
    dashed = next(each for each in drawn.iter() if each.get("stroke-dasharray"))
    assert float(dashed.get("y1")) == pytest.approx((y0 + y1) / 2, abs=0.1)


def test_a_log_axis_spaces_powers_evenly():
    axis = chart.Axis(1, 10_000, 0, 400, log=True)
    assert [axis(10.0**power) for power in range(5)] == [0, 100, 200, 300, 400]
