"""A real TorchServe, scraped by a real Prometheus: a planted shift raises the right alert and no other, and is sent."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import requests
import torch
from alert_chain import ALERTMANAGER, FOLDER, LOOPBACK, receive, run_alertmanager, run_prometheus
from PIL import Image

from camserve.build.archive import build_archive
from camserve.build.baseline.measure import measure_baseline
from camserve.build.mar.pack import add_baseline
from camserve.build.recipe import load_recipe
from camserve.cli import main
from camserve.drift.calibration import from_prometheus
from camserve.drift.counts import query, read_counts, references
from camserve.drift.exporter import EvidencePage, serve_page
from camserve.drift.statistics import ALARM_WINDOWS
from camserve.drift.version import Version
from camserve.drift.watcher import Watcher
from camserve.errors import ConfigError

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed: apt-get install prometheus"
    ),
]

PATIENCE = 90  # seconds
CLIENTS = 8
CLEAN, SHIFTED = 240, 300  # requests
SETTLED = 5  # seconds: longer than an alert waits, so that any other would fire too
SIDE = 64  # pixels
MOVED = 8  # pixels: one stride of the network, so that scores stay as they are

# Red, green and blue have one feature map and one class each: the map is where the color is, the score how much of it.
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 3, 4), nn.ReLU(), nn.Conv2d(3, 3, 3, 2), nn.ReLU())
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))
"""


def photo(random, moved=0):
    """Return a colored spot on black as PNG bytes, and the class of its color; no spot reaches the map's outer ring."""
    x, y, radius = random.uniform(20, 28) + moved, random.uniform(24, 32), random.uniform(5, 8)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    spot = np.clip(1 - ((columns - x) ** 2 + (rows - y) ** 2) / radius**2, 0, 1)
    color = random.uniform(60, 255, 3)
    buffer = BytesIO()
    Image.fromarray((spot[..., None] * color).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue(), int(color.argmax())


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spots")
    (folder / "net.py").write_text(NET)
    eye = torch.eye(3)[:, :, None, None].expand(3, 3, 3, 3) / 9
    weights = {"features.0.weight": eye, "features.2.weight": eye, "head.weight": 200 * torch.eye(3)}
    torch.save(
        {**weights, **dict.fromkeys(("features.0.bias", "features.2.bias", "head.bias"), torch.zeros(3))},
        folder / "net.pt",
    )
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    random = np.random.default_rng(0)
    photos = folder / "photos"
    photos.mkdir()
    lines = ["file,label"]
    for number in range(600):
        data, color = photo(random)
        (photos / f"{number:03d}.png").write_bytes(data)
        lines.append(f"{number:03d}.png,{('red', 'green', 'blue')[color]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    (folder / "spots.yaml").write_text(
        "name: spots\nfactory: Net\nmodel_file: net.py\nweights: net.pt\nlabels: labels.txt\nlayer: features\n"
        "preprocess: {resize: 64, crop: 64, mean: [0, 0, 0], std: [1, 1, 1]}\nsamples: [photos/000.png]\n"
    )
    built = build_archive(load_recipe(folder / "spots.yaml"), folder / "out", lambda line: None)
    baseline = measure_baseline(built, photos, folder / "labels.csv", "2026-01-01", lambda line: None)
    add_baseline(built, built, baseline.write())
    return built


@pytest.fixture(scope="module")
def served(archive, serve):
    with serve(archive) as running:
        yield running


@pytest.fixture(scope="module")
def board():
    return EvidencePage(ALARM_WINDOWS)


@pytest.fixture(scope="module")
def ports(next_ports):
    """A port for each part of the chain."""
    first = next_ports()
    return {part: first + at for at, part in enumerate(("prometheus", "watch", "alertmanager", "receiver"))}


@pytest.fixture(scope="module")
def prometheus(served, board, ports, tmp_path_factory):
    """The URL of a Prometheus that has the reference."""
    watch = serve_page(board, ports["watch"])
    targets = {"torchserve": served.metrics_url.split("/")[2], "camserve-watch": f"{LOOPBACK}:{ports['watch']}"}
    folder = tmp_path_factory.mktemp("prometheus")
    with run_prometheus(folder, ports["prometheus"], targets, ports["alertmanager"]) as url:
        until(lambda: query(url, "cam_ref_count and on () cam_bin_total"), "Prometheus has the reference")
        yield url
    watch.shutdown()
    watch.server_close()


def until(holds, what):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if found := holds():
                return found
        except (requests.ConnectionError, ConfigError):  # it has not started yet
            pass
        time.sleep(0.5)
    pytest.fail(f"not within {PATIENCE} s: {what}")


def send(served, photos):
    side = served.inference
    url = f"{side.url}/predictions/spots"
    with requests.Session() as session, ThreadPoolExecutor(CLIENTS) as pool:
        answers = pool.map(lambda data: session.post(url, headers=side.headers, data=data, timeout=60), photos)
        assert {answer.status_code for answer in answers} == {200}


def counted(url):
    """Return the requests that Prometheus has counted by now."""
    return sum(float(series["value"][1]) for series in query(url, 'sum(cam_bin_total{feature="centroid_x"})'))


def firing(url):
    alerts = query(url, 'ALERTS{alertstate="firing"}')
    return {(alert["metric"]["alertname"], alert["metric"].get("feature")) for alert in alerts}


def test_a_moved_camera_raises_the_explanation_alert_and_no_other(served, prometheus, board, tmp_path, capsys):
    random = np.random.default_rng(1)
    state = str(tmp_path / "watch.json")
    watch = ["watch", "--metrics-url", served.metrics_url, "--state", state, "--once"]
    started = time.time()

    send(served, [photo(random)[0] for _ in range(CLEAN)])
    until(lambda: counted(prometheus) == CLEAN, "every clean request is counted")
    until(lambda: query(prometheus, 'cam:drift_z:1h{feature="centroid_x"}'), "the clean hour is judged")
    time.sleep(SETTLED)
    assert firing(prometheus) == set()
    assert main(watch) == 0
    assert capsys.readouterr().out.startswith("quiet spots 1.0: evidence")

    send(served, [photo(random, MOVED)[0] for _ in range(SHIFTED)])
    until(lambda: firing(prometheus), "an alert fires")
    time.sleep(SETTLED)
    assert firing(prometheus) == {("ExplanationDrift", "centroid_x")}
    assert main(watch) == 3
    said = capsys.readouterr().out
    assert said.startswith("ALARM spots 1.0")
    assert "strongest: centroid_x" in said

    (alert,) = requests.get(f"{prometheus}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
    assert "spots 1.0 looks elsewhere: centroid_x has drifted" in alert["annotations"]["summary"]
    assert "the camera" in alert["annotations"]["description"]

    board.show(Watcher(tmp_path / "watch.json").observe(read_counts(prometheus), time.time()))
    until(lambda: "SequentialDrift" in {name for name, _ in firing(prometheus)}, "what camserve watch tells is scraped")
    check_panels(prometheus)
    check_history(prometheus, started)


def check_panels(url):
    """Ask every query of the dashboard; each is answered, and with data."""
    dashboard = json.loads((FOLDER / "grafana" / "dashboards" / "camserve.json").read_text())
    now = time.time()
    empty = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in (("$model", "spots"), ("$version", ".*"), ("$__rate_interval", "1m")):
                expression = expression.replace(variable, value)
            query(url, expression)
            if not query(url, expression, "query_range", start=now - 60, end=now, step=5):
                empty.append(f"{panel['title']}: {expression}")
    assert empty == []


def check_history(url, started):
    """What camserve calibrate reads from Prometheus is what was sent."""
    history = from_prometheus(url, started - 5, time.time(), 5)
    ((reference, windows),) = history.values()
    assert list(history) == [Version("spots", "1.0")]
    assert sum(sum(window["centroid_x"].values()) for window in windows) == CLEAN + SHIFTED
    assert sum(reference["centroid_x"].values()) == 600


def test_the_metrics_port_tells_the_reference_that_prometheus_tells(served, prometheus):
    assert references(read_counts(served.metrics_url)) == references(read_counts(prometheus))


@pytest.mark.skipif(
    ALERTMANAGER is None, reason="alertmanager is not installed: apt-get install prometheus-alertmanager"
)
def test_the_alert_reaches_a_receiver_with_a_link_that_opens(served, prometheus, ports, tmp_path):
    random = np.random.default_rng(2)
    with (
        receive(ports["receiver"]) as receiver,
        run_alertmanager(tmp_path, ports["alertmanager"], ports["receiver"]),
    ):
        send(served, [photo(random, MOVED)[0] for _ in range(SHIFTED)])
        until(lambda: "ExplanationDrift" in receiver.firing(), "the receiver gets the alert")
    message = receiver.messages[0]
    assert (message["receiver"], message["groupLabels"]) == ("team", {"ModelName": "spots", "ModelVersion": "1.0"})
    said = receiver.firing()["ExplanationDrift"]["annotations"]
    assert "spots 1.0 looks elsewhere" in said["summary"]
    assert said["runbook_url"].startswith(prometheus)
    page = requests.get(said["runbook_url"], timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert f'id="{said["runbook_url"].partition("#")[2]}">ExplanationDrift<' in page.text
