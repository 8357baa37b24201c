"""camserve report: what an audit log tells, as one file."""

import base64
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
from PIL import Image

from camserve.build.baseline.measure import quantile_bins
from camserve.cli import main
from camserve.cli.report import instant as read_time
from camserve.drift.audit_log import count_bins, read_audit, reference_bins, sample_of
from camserve.drift.charts import draw_curves
from camserve.drift.panels import PANELS
from camserve.drift.periods import compare_periods
from camserve.drift.report import describe_best, find_drifting, find_worst, write_report
from camserve.drift.tables import change_table, class_table, drift_table, find_drifts
from camserve.drift.theme import draw_nothing, make_spec, make_theme
from camserve.drift.traffic import Traffic
from camserve.errors import ConfigError
from camserve.monitor.baseline import Accuracy, Baseline, ClassBins, Provenance, Unusual
from camserve.monitor.signals import OF_QUANTITIES, SIGNALS
from camserve.values import TRAITS

START = 1_800_000_000


def values(random, shifted=False):
    signals = {name: float(random.uniform()) for name in SIGNALS}
    return {**signals, "border": float(random.uniform(0.7, 1.0))} if shifted else signals


@pytest.fixture(scope="module")
def baseline():
    random = np.random.default_rng(0)
    drawn = [values(random) for _ in range(2000)]
    return Baseline(
        signals={name: quantile_bins(np.array([signals[name] for signals in drawn]), 10) for name in SIGNALS},
        classes=ClassBins((2, 0), (1000, 600, 400)),
        unusual=Unusual(0.01, 0.01),
        shares={"ood": 0.01, "blank": 0.0, "atc": 0.8},
        provenance=Provenance("sha", "features", "gradcam", "1", "2", "2026-01-01", 2000),
        accuracy=Accuracy(0.8, 0.2),
        heatmap=((0.25, 0.25), (0.25, 0.25)),
    )


def line(number, signals, reason="sampled", outcome="ok", picture=False):
    record = {
        "schema": 1,
        "time": f"2027-01-15T{8 + number // 60:02d}:{number % 60:02d}:00.000+00:00",
        "request_id": f"r{number}",
        "model": {"name": "m", "version": "1"},
        "reason": reason,
        "outcome": outcome,
    }
    if outcome == "ok":
        record |= {
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
        record["thumbnail"] = base64.b64encode(buffer.getvalue()).decode()
        record["map"] = {"shape": [2, 2], "levels": base64.b64encode(bytes([15, 0, 0, 5])).decode()}
    return record


def write(path, lines):
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Eight hours: the evidence moves to the border after four; odd records are kept beside the sample."""
    random = np.random.default_rng(1)
    lines = [line(number // 4, values(random, number >= 960), picture=number % 200 == 0) for number in range(1920)]
    lines.append(line(100, {}, outcome="bad_image"))
    lines += [line(number, {**values(random), "energy": -9.0}, reason="ood", picture=True) for number in (3, 4)]
    return read_audit([write(tmp_path_factory.mktemp("audit") / "audit-1.jsonl", lines)])


def test_records_are_read_in_order_and_the_blind_sample_is_told_apart(records):
    assert [record.instant for record in records] == sorted(record.instant for record in records)
    assert len(records) == 1923
    assert len(sample_of(records)) == 1921


def test_a_cloud_event_is_its_record(tmp_path, records):
    plain = line(0, {"confidence": 0.5})
    event = {"specversion": "1.0", "id": "x", "data": plain}
    one, other = (read_audit([write(tmp_path / name, [block])])[0] for name, block in (("a", plain), ("b", event)))
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
    (record,) = [one for one in records if one.request_id == "r5"][:1]
    counts = count_bins([record], baseline)
    assert counts["area"]["b0"] == float(record.signals["area"] < edge)
    assert sum(counts["area"].values()) == 1
    assert counts["class"] == {"c0002": 1.0, "c0000": 0.0, "other": 0.0}
    assert list(reference_bins(baseline)["class"].values()) == [1000, 600, 400]


def test_the_feature_that_moved_leads_the_table(baseline, records):
    found = find_drifts(Traffic(sample_of(records), baseline))
    assert next(iter(found)) == "border"
    assert [name for name, change in found.items() if change.alarms] == ["border"]


def test_the_examples_show_the_drift_and_the_worst(baseline, records):
    shown = find_drifting(Traffic(sample_of(records), baseline))
    assert all(record.signals["border"] > 0.7 for record, _ in shown)
    assert [record.reason for record, _ in find_worst(records)[:2]] == ["ood", "ood"]


def encodings(spec):
    """Every encoding of a chart, of its layers too."""
    yield spec.get("encoding", {})
    for layer in spec.get("layer", []):
        yield from encodings(layer)


def rows_of(chart):
    spec = make_spec(chart)
    return [row for part in (spec, *spec.get("layer", [])) for row in part.get("data", {}).get("values", [])]


def test_the_report_shows_another_clients_format(baseline, tmp_path):
    random = np.random.default_rng(3)
    lines = [line(number // 4, values(random)) for number in range(800)]
    for record in lines[400:]:
        record["input"]["format"] = "WEBP"
    shown = Traffic(read_audit([write(tmp_path / "a.jsonl", lines)]), baseline)
    rows = rows_of(PANELS["Pictures by format"](shown))
    assert {row["series"] for row in rows} == {"JPEG", "PNG", "WEBP"}
    late = [
        row["value"] for row in rows if row["series"] == "WEBP" and row["time"] > 1000 * read_time("2027-01-15T10:30")
    ]
    assert min(late) == 1.0


def test_the_report_shows_what_another_client_does_to_pictures(baseline, tmp_path):
    random = np.random.default_rng(3)
    lines = [line(number // 4, values(random)) for number in range(800)]
    for number, record in enumerate(lines[400:]):
        record["input"]["traits"] = ["grey", "rotated"] if number % 2 else ["grey"]
    changed = Traffic(read_audit([write(tmp_path / "changed.jsonl", lines)]), baseline)
    for record in lines:
        record["input"]["traits"] = []
    before = Traffic(read_audit([write(tmp_path / "before.jsonl", lines)]), baseline)
    flat, now = (rows_of(PANELS["Pictures that were converted, by trait"](traffic)) for traffic in (before, changed))
    assert {row["series"] for one, other in zip(flat, now) for row in [one] if one != other} == {"grey", "rotated"}
    assert {row["series"] for row in now} == set(TRAITS)


def test_the_report_of_values_shows_them_in_the_place_of_probabilities(baseline, records):
    quantities = replace(
        baseline,
        signals={name: bins for name, bins in baseline.signals.items() if name in OF_QUANTITIES},
        classes=ClassBins((), (0,)),
        unusual=None,
        accuracy=None,
    )
    values = ({"index": 0, "label": "weight", "value": 2.5, "unit": "kg"},)
    shown = [
        replace(record, predictions=values, signals={name: record.signals[name] for name in OF_QUANTITIES})
        for record in records[::10]
        if record.signals
    ]
    traffic = Traffic(shown, quantities)
    for title in ("Confidence over time", "Classes against the baseline", "Estimated accuracy"):
        assert PANELS[title](traffic).to_dict() == draw_nothing().to_dict()
    assert "<td class='text'>area" in drift_table(traffic)
    assert "<td class='text'>confidence" not in drift_table(traffic)
    assert "weight" not in class_table(traffic)
    assert find_worst(shown) == []
    assert describe_best(shown[0]) == "weight 2.5 kg"


def test_the_panel_of_classes_says_that_the_signal_is_off(baseline, records):
    shown = Traffic(records[:50], replace(baseline, classes=ClassBins((), (1000,))))
    assert "off: no class is frequent in the baseline" in str(PANELS["Classes against the baseline"](shown).to_dict())


FEW = "too few requests: 5 in a window, and 100 are needed"


@pytest.fixture(scope="module")
def few(tmp_path_factory, baseline):
    """Five requests of one minute."""
    random = np.random.default_rng(4)
    lines = [line(0, values(random)) for _ in range(5)]
    return Traffic(read_audit([write(tmp_path_factory.mktemp("few") / "a.jsonl", lines)]), baseline)


def test_of_one_window_each_series_is_a_point_in_a_place_of_its_own(few):
    for title in ("Blank maps", "Time in the handler", "Inputs against the baseline, in its standard deviations"):
        (points,) = make_spec(PANELS[title](few))["layer"]
        assert points["mark"] == {"type": "point", "size": 110}
        assert points["encoding"]["x"]["field"] == "series"
        assert points["encoding"]["x"]["title"] == "one window, 2027-01-15 08:00 UTC"
        assert rows_of(PANELS[title](few))


def test_what_cannot_be_judged_yet_says_so(few):
    for title in ("Drift now, z", "Drift over time, z (alarm at 4.5 with PSI above 0.1)", "Estimated accuracy"):
        assert rows_of(PANELS[title](few)) == [{"text": FEW}]
    assert find_drifts(few) == {}
    table = drift_table(few)
    assert table.count("too few requests: 100 are needed") == len(few.reference)
    assert re.search(r"<td class='text'>border</td><td class='text'>explanations</td><td>5</td><td></td>", table)
    assert "class='alarm'" not in table
    assert find_drifting(few) == []


def test_a_feature_is_judged_once_it_has_enough(baseline, records):
    enough = Traffic(sample_of(records)[:100], baseline)
    assert len(find_drifts(enough)) == len(enough.reference)
    assert "too few" not in drift_table(enough)


@pytest.fixture(scope="module")
def page(baseline, records):
    return write_report(records, baseline, "m 1", read_time("2027-01-15T12:00"))


def test_the_report_holds_what_the_records_say(page):
    assert "1921 sampled requests" in page
    assert "1920 ok, 1 bad_image" in page
    assert "<cat>" not in page
    assert "&lt;cat&gt;" in page
    assert "<tr class='alarm'><td class='text'>border" in page
    assert page.count("data:image/jpeg;base64,") >= 1


def test_the_report_is_one_file_that_asks_for_nothing(page):
    before, _, rest = page.partition("<script id='library'>")
    own = before + rest.partition("</script>")[2]
    assert "http" not in own
    assert not re.search(r"(src|href)=(?!'data:)|@import|url\(", own)


def test_every_panel_can_be_drawn_and_names_its_axes(page):
    charts = json.loads(re.search(r"const CHARTS = (.*);\n", page)[1])
    assert len(charts) == len(PANELS) + 1  # and the mean maps
    for title, spec in zip(PANELS, charts.values()):
        axes = [channel for found in encodings(spec) for name, channel in found.items() if name in ("x", "y")]
        assert axes, title
        assert all(axis["title"] for axis in axes), title
        assert all(found["tooltip"] for found in encodings(spec) if found), title
        drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec, config=make_theme(dark=True)))
        assert len(list(drawn.iter("{http://www.w3.org/2000/svg}path"))) > 5, title


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
@pytest.mark.server
def test_a_browser_without_network_draws_every_chart(page, tmp_path):
    (tmp_path / "report.html").write_text(page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        ["chromium", *flags, (tmp_path / "report.html").as_uri()], capture_output=True, text=True, check=True
    )
    drawn = re.findall(r'<svg [^>]*class="marks"', done.stdout.partition("<noscript>")[0])
    assert len(drawn) == len(PANELS) + 1  # and the mean maps


def test_the_report_compares_with_a_clean_period(page):
    section = page.partition("<h2>After the clean period</h2>")[2].partition("<h2>")[0]
    assert re.findall(r"<tr class='alarm'><td class='text'>(\w+)<", section) == ["border"]
    assert "Values after 2027-01-15 12:00 UTC" in section
    assert "A classifier tells the periods apart. Its score follows border (+" in section


def test_a_report_of_one_clean_day_says_that_nothing_changed(records):
    noon = read_time("2027-01-15T12:00")
    clean = sample_of([record for record in records if record.instant < noon])
    section = change_table(compare_periods(clean, read_time("2027-01-15T12:00+02:00")))
    assert "class='alarm'" not in section
    assert "A classifier cannot tell the periods apart." in section


def test_a_wrong_time_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["report", "a.jsonl", "--baseline", "m.mar", "--clean-until", "noon"])
    assert "'noon' is not a time such as 2027-01-15T12:00" in capsys.readouterr().err


def test_curves_over_time_are_in_utc_with_the_alarm_among_them():
    chart = draw_curves({"a": [(0.0, 0.0), (10.0, 1.0), (20.0, math.nan)]}, "value", alarm=0.5)
    curve, alarm = make_spec(chart)["layer"]
    assert curve["encoding"]["x"]["scale"] == {"type": "utc"}
    assert alarm["mark"]["style"] == "alarm"
    assert [(row["time"], row["value"]) for row in rows_of(chart) if "time" in row] == [(0.0, 0.0), (10000.0, 1.0)]
    assert {"value": 0.5} in rows_of(chart)


def test_nothing_to_draw_is_said():
    assert {"text": "no data"} in rows_of(draw_curves({"a": []}, "value"))


def test_a_missing_library_is_named_with_the_extra_that_brings_it():
    code = "import sys; sys.modules['altair'] = None; from camserve.cli import main; sys.exit(main(['report', 'x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "camserve report needs altair: pip install 'camserve[monitor]'\n")
