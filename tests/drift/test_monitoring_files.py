"""config/monitoring follows the table of signals, and every alert is tested and documented."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from camserve.cli import main
from camserve.drift.audit_log import CLASSES
from camserve.drift.dashboard_panels import ROWS
from camserve.drift.panels import PANELS
from camserve.drift.statistics import compare_counts
from camserve.monitor.series import COUNTERS, GAUGES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config" / "monitoring"
RULES = {group["name"]: group["rules"] for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]}
ALERTS = {rule["alert"]: rule for rule in RULES["camserve-alerts"]}
NEED_A_SERVER = {"Time in the queue", "Worker restarts in 15 minutes", "Firing alerts"}  # audit records cannot tell
WATCH = {"cam_e_detector", "cam_e_alarm", "cam_e_feature"}


def writer():
    spec = importlib.util.spec_from_file_location("monitoring_script", ROOT / "scripts" / "monitoring.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_written_files_are_those_that_the_table_gives():
    for path, content in writer().files().items():
        assert (ROOT / path).read_text() == content, f"{path}: run scripts/monitoring"


def test_the_runbook_is_html_of_the_page():
    text = "**Do** *this*: `a<b` & [read](sources.md#x), [see](https://a.example/b)."
    page = writer().make_runbook(f"## Setup\n\nno\n\n## Runbook\n\n### BlankMaps\n\n{text}\n")
    written = "<p><b>Do</b> <i>this</i>: <code>a&lt;b</code> &amp; read (docs/sources.md), "
    assert f'<h2 id="blankmaps">BlankMaps</h2>\n{written}<a href="https://a.example/b">see</a>.</p>' in page
    assert "Setup" not in page
    assert "{{" not in (FOLDER / "consoles" / "runbook.html").read_text()  # Prometheus would compute it


@pytest.mark.parametrize("service", ["prometheus", "alertmanager"])
def test_the_command_in_the_head_of_a_file_has_the_containers_flags(service):
    contained = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"][service]["command"]
    written = re.search(r"#   \w.*\n#     .*\n", (FOLDER / f"{service}.yml").read_text())[0]
    assert set(re.findall(r"--[\w.-]+(?==)", written)) == {flag.partition("=")[0] for flag in contained}


def drawn():
    """Counts of features with many bins, few, an empty one, two, and of classes, which have no order."""
    random = np.random.default_rng(5)
    counts = {
        "border": (random.integers(20, 90, 10), random.integers(0, 30, 10)),
        "aspect": (np.array([80, 60, 0, 40, 9]), np.array([20, 50, 0, 10, 40])),
        "sharpness": (np.array([300, 200]), np.array([40, 80])),
        "class": (random.integers(5, 90, 20), random.integers(0, 30, 20)),
    }
    return {
        feature: {f"c{bin_:04d}" if feature == CLASSES else f"b{bin_}": pair for bin_, pair in enumerate(zip(*pairs))}
        for feature, pairs in counts.items()
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Debian's package prometheus")
def test_the_rules_compute_what_python_computes(tmp_path):
    series, expected = [], []
    for feature, bins in drawn().items():
        for bin_, (reference, live) in bins.items():
            labels = f'{{feature="{feature}", bin="{bin_}", ModelName="m", ModelVersion="1"}}'
            series.append({"series": f"cam_ref_count{labels}", "values": f"{reference}x120"})
            series.append({"series": f"cam_bin_total{labels}", "values": f"0+{live}x120"})  # a minute
        reference, live = (np.array(column) for column in zip(*bins.values()))
        drift = compare_counts(reference, 60 * live, feature != CLASSES)
        found = {"omnibus_z": drift.omnibus, "location_z": drift.location, "drift_z": drift.z, "psi": drift.psi}
        expected += [(f'cam:{metric}:1h{{feature="{feature}"}}', value) for metric, value in found.items()]
    asked = [
        {"expr": f"{expr} > -Inf", "eval_time": "2h", "exp_samples": []}
        if value is None
        else {"expr": f"count(abs({expr} - ({value!r})) < 1e-6)", "eval_time": "2h", "exp_samples": [{"value": 1}]}
        for expr, value in expected
    ]
    cases = {
        "rule_files": [str(FOLDER / "signals.yml"), str(FOLDER / "rules.yml")],
        "evaluation_interval": "4m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(cases))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_day_is_judged_like_the_hour():
    hour = [rule for rule in RULES["camserve-drift-1h"] if rule["record"] not in ("cam:mean:1h", "cam:shift:1h")]
    assert json.loads(json.dumps(hour).replace("1h", "24h")) == RULES["camserve-drift-24h"]


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_fired_by_promtools_tests_and_says_what_to_do(name):
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fired = [sample["labels"] for test in tests for case in test["promql_expr_test"] for sample in case["exp_samples"]]
    assert f'{{alertname="{name}"}}' in fired
    said = ALERTS[name]["annotations"]
    assert "Likeliest cause: " in said["description"]
    assert said["runbook_url"] == f"{{{{ $externalURL }}}}/consoles/runbook.html#{name.lower()}"
    assert f'<h2 id="{name.lower()}">{name}</h2>' in (FOLDER / "consoles" / "runbook.html").read_text()
    named = f"{said['summary']} {said['description']} {ALERTS[name]['labels'].get('feature')}"
    assert "feature" in named or "Feature" in named
    assert f"### {name}\n" in (ROOT / "docs" / "monitoring.md").read_text()


def test_promtools_tests_are_quiet_before_every_change():
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    assert all(not test["promql_expr_test"][0]["exp_samples"] for test in tests)


def test_rules_and_panels_read_only_metrics_that_exist():
    queries = [query for row in ROWS.values() for panel in row for query in panel.queries.values()]
    written = " ".join([*queries, *(rule["expr"] for rules in RULES.values() for rule in rules)])
    used = set(re.findall(r"\b(cam_\w+)\b", written))
    assert used <= {*COUNTERS, *GAUGES, *WATCH}
    recorded = {rule["record"] for rules in RULES.values() for rule in rules if "record" in rule}
    known = {*recorded, "cam:signal", "cam:bin_number", "cam:dispersion"}
    assert set(re.findall(r"\b(cam:[\w:]+)", written)) <= known


def test_the_report_draws_the_dashboards_panels():
    titles = [panel.title for row in ROWS.values() for panel in row if panel.title not in NEED_A_SERVER]
    assert list(PANELS) == titles


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((FOLDER / "grafana" / "dashboards" / "camserve.json").read_text())


def test_the_dashboard_has_its_variables_and_a_query_in_every_panel(dashboard):
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "model", "version"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("- 1", "own.yaml is no TorchServe metrics.yaml: it has no 'ts_metrics'"),
        ("a: [", "own.yaml: while parsing"),
        (
            "ts_metrics: {}\nmodel_metrics: {counter: [{name: cam_batches_total, unit: Count, dimensions: [Level]}]}",
            "own.yaml: cam_batches_total has other dimensions than ModelVersion, ModelName, Level: leave it out",
        ),
        ("ts_metrics: {}\nmodel_metrics: [1]", "own.yaml: model_metrics must hold lists of {name, unit, dimensions}"),
        ("ts_metrics: {}\nmodel_metrics: {gauge: [{name: a}]}", "own.yaml: model_metrics must hold lists of"),
        ("ts_metrics: {}\nmodel_metrics: {gauge: 3}", "own.yaml: model_metrics must hold lists of"),
        (None, "No such file"),
    ],
)
def test_metrics_that_cannot_be_joined_are_named(written, message, tmp_path, capsys):
    if written is not None:
        (tmp_path / "own.yaml").write_text(written)
    assert main(["metrics", str(tmp_path / "own.yaml")]) == 1
    assert message in capsys.readouterr().err


def test_an_xy_chart_says_which_grafana_its_options_are_for(dashboard):
    (chart,) = [panel for panel in dashboard["panels"] if panel["type"] == "xychart"]
    image = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"]["grafana"]["image"]
    assert image.endswith(f":{chart['pluginVersion']}")


def test_columns_of_a_table_are_called_what_they_are(dashboard):
    tables = [panel for panel in dashboard["panels"] if panel["type"] == "table" and len(panel["targets"]) > 1]
    for panel in tables:
        names = panel["transformations"][-1]["options"]["renameByName"]
        assert names == {f"Value #{target['refId']}": target["legendFormat"] for target in panel["targets"]}
    assert len(tables) == 2


def test_panels_lie_side_by_side(dashboard):
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
