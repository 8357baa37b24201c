"""camserve watch and calibrate: what was counted is remembered, added up and judged."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
import yaml

from camserve.cli import main
from camserve.cli.calibrate import calibration_lines
from camserve.drift.calibration import calibrate, dispersion_rules
from camserve.drift.counts import LIVE, REFERENCE, Series, added, read_counts, references
from camserve.drift.exporter import EvidencePage, serve_page
from camserve.drift.version import Version
from camserve.drift.watcher import Watcher
from camserve.errors import ConfigError

MODEL = {"ModelName": "m", "ModelVersion": "1", "Level": "Model", "Hostname": "h"}
SPOTS = Version("m", "1")


def series(name, feature, bin_, **labels):
    return Series(name, tuple(sorted({**MODEL, "feature": feature, "bin": bin_, **labels}.items())))


def snapshot(live, reference=(500, 500), feature="area"):
    """Return what a port tells whose counters stand at ``live``."""
    counts = {series(REFERENCE, feature, f"b{at}"): float(count) for at, count in enumerate(reference)}
    return {**counts, **{series(LIVE, feature, f"b{at}"): float(count) for at, count in enumerate(live)}}


def written(counts):
    lines = ["# HELP cam_bin_total requests", "# TYPE cam_bin_total counter", "other_metric 3"]
    for one, value in counts.items():
        labels = ",".join(f'{name}="{text}"' for name, text in one.labels)
        lines.append(f"{one.name}{{{labels},}} {value}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def port():
    """A metrics port that tells whatever ``port.text`` says."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.text = ""
    server.url = f"http://127.0.0.1:{server.server_port}/metrics"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_counts_are_read_from_a_metrics_port(port):
    counts = snapshot([7, 9])
    port.text = written(counts)
    assert read_counts(port.url) == counts


def test_a_port_without_a_baseline_says_what_is_missing(port):
    port.text = "cam_requests_total 3\n"
    with pytest.raises(ConfigError, match="camserve baseline"):
        read_counts(port.url)


def test_a_port_that_is_no_prometheus_is_refused(port):
    with pytest.raises(ConfigError, match="no Prometheus"):
        read_counts(port.url.replace("/metrics", ""))
    with pytest.raises(ConfigError, match="the connection is refused: start the server"):
        read_counts("http://127.0.0.1:9/metrics")


def test_hosts_add_up_and_a_counter_that_fell_has_restarted():
    here, there = series(LIVE, "area", "b0"), series(LIVE, "area", "b0", Hostname="other")
    assert added({here.key: 10.0}, {here: 4.0, there: 5.0}) == {SPOTS: {"area": {"b0": 9.0}}}
    assert added({here.key: 10.0}, {here: 12.0}) == {SPOTS: {"area": {"b0": 2.0}}}


def test_every_worker_tells_the_same_reference():
    counts = {series(REFERENCE, "area", "b0"): 5.0, series(REFERENCE, "area", "b0", instance="b"): 5.0}
    assert references(counts) == {SPOTS: {"area": {"b0": 5.0}}}


def test_a_watcher_that_was_restarted_says_what_one_that_ran_on_says(tmp_path):
    looks = [(snapshot([5, 5]), 100.0), (snapshot([50, 55]), 4000.0), (snapshot([60, 155]), 8000.0)]
    running = Watcher(tmp_path / "one.json")
    steady = [running.observe(*look) for look in looks]
    resumed = [Watcher(tmp_path / "two.json").observe(*look) for look in looks]
    assert resumed == steady
    assert steady[-1][0].requests == 215


def test_the_evidence_grows_with_a_shift_and_names_the_feature(tmp_path):
    watcher = Watcher(tmp_path / "state.json")
    clean = {**snapshot([100, 100]), **snapshot([100, 100], feature="border")}
    (quiet,) = watcher.observe(clean, 0.0)
    (loud,) = watcher.observe({**snapshot([105, 395]), **snapshot([250, 250], feature="border")}, 3600.0)
    assert not quiet.alarms(8760)
    assert loud.alarms(8760)
    assert next(iter(loud.features)) == "area"


def test_a_new_baseline_forgets_the_old_windows(tmp_path):
    watcher = Watcher(tmp_path / "state.json")
    watcher.observe(snapshot([0, 500]), 0.0)
    (fresh,) = watcher.observe(snapshot([0, 510], reference=(400, 600)), 60.0)
    assert fresh.requests == 10


def test_a_constant_feature_cannot_drift(tmp_path):
    counts = {**snapshot([5, 5]), series(REFERENCE, "aspect", "b0"): 500.0, series(LIVE, "aspect", "b0"): 10.0}
    (found,) = Watcher(tmp_path / "state.json").observe(counts, 0.0)
    assert list(found.features) == ["area"]


def test_only_a_week_of_hours_is_kept(tmp_path):
    path = tmp_path / "state.json"
    watcher = Watcher(path)
    for hour in range(170):
        (found,) = watcher.observe(snapshot([hour, hour]), 3600.0 * hour)
    assert found.requests == 2 * 168
    assert len(json.loads(path.read_text())["versions"][0]["windows"]) == 168


@pytest.mark.parametrize("content", ["no json", "[]", '{"schema": 1}', '{"schema": 2, "window_seconds": 3600.0}'])
def test_a_file_that_is_no_state_is_refused(tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ConfigError, match="move it away"):
        Watcher(tmp_path / "state.json")


def test_the_command_exits_with_3_on_an_alarm(port, tmp_path, capsys):
    command = ["watch", "--metrics-url", port.url, "--state", str(tmp_path / "state.json"), "--once"]
    port.text = written(snapshot([50, 50]))
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("quiet m 1: evidence")
    port.text = written(snapshot([50, 450]))
    assert main(command) == 3
    assert "strongest: area" in capsys.readouterr().out


def test_prometheus_can_read_the_evidence(tmp_path):
    board = EvidencePage(8760.0)
    server = serve_page(board, 0)
    board.show(Watcher(tmp_path / "state.json").observe(snapshot([5, 5]), 0.0))
    metrics = requests.get(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5).text
    server.shutdown()
    server.server_close()
    assert 'cam_e_alarm{ModelName="m",ModelVersion="1"} 8760.0' in metrics
    assert 'cam_e_feature{ModelName="m",ModelVersion="1",feature="area"}' in metrics


def windows(shares, count=60, requests_each=300, seed=0):
    random = np.random.default_rng(seed)
    drawn = [random.multinomial(requests_each, shares(random)).astype(float) for _ in range(count)]
    return [{"area": dict(zip(("b0", "b1", "b2"), row))} for row in drawn]


EVEN = {"area": {"b0": 700.0, "b1": 700.0, "b2": 700.0}}


def test_independent_requests_have_a_dispersion_of_one():
    (found,) = calibrate(EVEN, windows(lambda random: [1 / 3] * 3))
    assert found.dispersions == {"omnibus": pytest.approx(1, abs=0.35), "location": pytest.approx(1, abs=0.5)}
    assert found.alarms_before == 0


def test_bursts_of_alike_pictures_are_calibrated_away():
    (found,) = calibrate(EVEN, windows(lambda random: random.dirichlet([12] * 3)))
    assert min(found.dispersions.values()) > 4
    assert found.alarms_before > 0
    assert found.alarms_after == 0
    written_rules = yaml.safe_load(yaml.safe_dump(dispersion_rules(SPOTS, [found])))
    labels = {"ModelName": "m", "ModelVersion": "1", "feature": "area"}
    rules = written_rules["groups"][0]["rules"]
    assert [rule["labels"] for rule in rules] == [{**labels, "test": "omnibus"}, {**labels, "test": "location"}]
    assert all(rule["record"] == "cam:dispersion" for rule in rules)


def test_classes_have_no_order_to_calibrate():
    drawn = [{"class": window["area"]} for window in windows(lambda random: [1 / 3] * 3)]
    (found,) = calibrate({"class": EVEN["area"]}, drawn)
    assert list(found.dispersions) == ["omnibus"]
    assert "omnibus location" in calibration_lines(SPOTS, [found])[1]


def test_too_short_a_history_is_refused():
    with pytest.raises(ConfigError, match="24 windows of 100 requests"):
        calibrate(EVEN, windows(lambda random: [1 / 3] * 3, count=23))
