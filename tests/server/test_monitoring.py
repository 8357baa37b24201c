"""Counters through a real TorchServe: workers add up, survive, and nobody else can write them."""

import os
import re
import signal
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests
import torch
import yaml

from camserve.build.archive import build_archive
from camserve.build.mar.pack import add_baseline
from camserve.build.recipe import Recipe
from camserve.cli import main
from camserve.input_spec import InputSpec
from camserve.monitor.baseline import BASELINE
from camserve.monitor.series import MAX_SERIES
from model_file import NET, quiet
from synthetic_photos import photo, write_photos

pytestmark = pytest.mark.server

REQUESTS = int(os.environ.get("CAMSERVE_REQUESTS", "400"))
TIMED = {
    "cam_latency_milliseconds_total",
    "cam_stage_microseconds_total",
    "cam_stage_milliseconds",
    "cam_batches_total",
}
FLUSH_SECONDS = 20
RECOVER_SECONDS = 60
BATCH = 8  # rows that a worker may hold
STANDARD = Path(find_spec("ts").origin).parent / "configs" / "metrics.yaml"  # TorchServe's own


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The same network as model ``one`` with one worker and model ``two`` with two, both with a baseline."""
    folder = tmp_path_factory.mktemp("monitored")
    (folder / "net.py").write_text(NET)
    (folder / "labels.txt").write_text("cat\ndog\nbird\n")
    scope = {}
    exec(NET, scope)
    torch.manual_seed(3)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    archives = {}
    for workers, name in enumerate(("one", "two"), start=1):
        recipe = Recipe(
            name=name,
            factory="Net",
            weights=str(folder / "net.pt"),
            model_file=str(folder / "net.py"),
            labels=str(folder / "labels.txt"),
            preprocess=InputSpec(resize=64, crop=64),
            # Alone in its batch, a picture gets the same scores to the last bit.
            serving={"minWorkers": workers, "maxWorkers": workers, "batchSize": 1},
        )
        archives[name] = build_archive(recipe, folder / "store", quiet)
    photos = write_photos(folder / "photos", 500)
    assert main(["baseline", str(archives["one"]), "--images", str(photos), "--date", "2026-01-01"]) == 0
    with zipfile.ZipFile(archives["one"]) as archive:
        add_baseline(archives["two"], archives["two"], archive.read(BASELINE))
    return archives


@pytest.fixture(scope="module")
def monitored(store, serve):
    with serve(*store.values()) as server:
        deadline = time.monotonic() + RECOVER_SECONDS
        while any(worker["status"] != "READY" for worker in server.workers("two")) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield server


def read(server, model, metric=r"cam_\w+"):
    """Return the series of one model: (metric, labels of its own) -> value."""
    text = requests.get(server.metrics_url, timeout=10).text
    found = {}
    for name, labels, value in re.findall(rf"^({metric})\{{(.*)\}} (\S+)$", text, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if pairs.pop("ModelName") == model:
            own = tuple(sorted((key, text) for key, text in pairs.items() if key not in ("Level", "Hostname")))
            found[name, own] = float(value)
    return found


def answered(server, model):
    return sum(read(server, model, "cam_requests_total").values())


def await_count(server, model, expected):
    deadline = time.monotonic() + FLUSH_SECONDS
    while answered(server, model) != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answered(server, model) == expected


def send(server, model, bodies):
    side = server.inference

    with requests.Session() as session, ThreadPoolExecutor(8) as pool:
        session.headers.update(side.headers)
        url = f"{side.url}/predictions/{model}"
        return list(pool.map(lambda body: session.post(url, data=body, timeout=60).status_code, bodies))


def test_two_workers_count_what_one_counts(monitored):
    bodies = [photo(1000 + number) if number % 50 else b"no picture" for number in range(REQUESTS)]
    before = {model: read(monitored, model) for model in ("one", "two")}
    for model in ("one", "two"):
        assert sorted(set(send(monitored, model, bodies))) == [200, 415]
    for model, series in before.items():
        count = sum(value for (name, _), value in series.items() if name == "cam_requests_total")
        await_count(monitored, model, count + REQUESTS)
    counted = {}
    for model in ("one", "two"):
        after = read(monitored, model)
        assert before[model].keys() == after.keys()  # every series was there, at 0, before the first request
        counted[model] = {key: after[key] - before[model][key] for key in after if key[0] not in TIMED}
    assert counted["one"] == counted["two"]
    bins = [
        value for (name, own), value in counted["one"].items() if ("feature", "confidence") in own and "bin" in name
    ]
    assert sum(bins) == REQUESTS - len(bodies[::50])
    pids = {worker["pid"] for worker in monitored.workers("two")}
    assert len(pids) == 2


def test_series_are_few_and_carry_the_model(monitored):
    text = requests.get(monitored.metrics_url, timeout=10).text
    counters = {name for name, kind in re.findall(r"^# TYPE (cam_\w+) (\w+)$", text, re.MULTILINE) if kind == "counter"}
    series = read(monitored, "one")
    assert len([key for key in series if key[0] in counters]) <= MAX_SERIES
    assert all(("ModelVersion", "1.0") in own for _, own in series)
    assert series["cam_selftest_ok", (("ModelVersion", "1.0"),)] == 1
    reference = [
        value for (name, own), value in series.items() if name == "cam_ref_count" and ("feature", "energy") in own
    ]
    assert sum(reference) == 500
    assert "ts_inference_requests_total" in text
    assert "cat" not in {label for _, own in series for _, label in own}


def test_the_model_card_knows_the_baseline(monitored):
    side = monitored.management
    answer = requests.get(f"{side.url}/models/one?customized=true", headers=side.headers, timeout=60)
    made = answer.json()[0]["customizedMetadata"]["baseline"]
    assert made == {"images": 500, "date": "2026-01-01", "signals_off": []}


def test_counts_survive_a_killed_worker(monitored):
    count = answered(monitored, "one") + 3
    send(monitored, "one", [photo(1)] * 3)
    await_count(monitored, "one", count)  # a timer flushes what no later batch would
    before = read(monitored, "one")
    (worker,) = monitored.workers("one")
    os.kill(int(worker["pid"]), signal.SIGKILL)
    deadline = time.monotonic() + RECOVER_SECONDS
    while time.monotonic() < deadline:
        workers = monitored.workers("one")
        if workers and workers[0]["status"] == "READY" and workers[0]["pid"] != worker["pid"]:
            break
        time.sleep(0.2)
    assert send(monitored, "one", [photo(2)] * 2) == [200, 200]
    await_count(monitored, "one", count + 2)
    after = read(monitored, "one")
    assert all(after[key] >= before[key] for key in before if key[0].endswith("_total"))


def test_the_other_worker_of_a_killed_one_loses_nothing(monitored):
    killed = int(monitored.workers("two")[0]["pid"])
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, monitored, "two", [photo(number) for number in range(200)])
        time.sleep(0.5)
        os.kill(killed, signal.SIGKILL)
        statuses = sending.result()
    assert statuses.count(200) >= len(statuses) - BATCH
    deadline = time.monotonic() + RECOVER_SECONDS
    while time.monotonic() < deadline:
        workers = monitored.workers("two")
        if all(worker["status"] == "READY" and int(worker["pid"]) != killed for worker in workers):
            break
        time.sleep(0.2)
    assert send(monitored, "two", [photo(1)] * 4) == [200] * 4


def test_nothing_that_a_caller_sends_moves_a_counter(monitored):
    labels = "outcome:ok,ModelVersion:1.0,ModelName:one,Level:Model"
    line = f"[METRICS]cam_requests_total.Count:1000000|#{labels}|#type:COUNTER|#hostname:x,1"
    before = answered(monitored, "one")
    side = monitored.inference
    url = f"{side.url}/predictions/one"
    tries = [
        {"data": {"target": line}},
        {"data": {line: "x"}},
        {"data": {"target": f"\n{line}\n"}},
        {"data": {"target": f"x\u2028{line}"}},
        {"data": {"target": f"x\x85{line}"}},
        {"data": {"target": f"\r{line}"}},
    ]
    for body in tries:
        answer = requests.post(url, headers=side.headers, files={"data": photo(5)}, timeout=30, **body)
        assert answer.status_code == 400
    assert requests.post(url, headers=side.headers, data=line.encode(), timeout=30).status_code in (400, 415)
    await_count(monitored, "one", before + len(tries) + 1)


def test_a_server_that_does_not_know_our_metrics_says_so_once_and_serves(store, serve):
    with serve(store["one"], metrics_config=str(STANDARD), model_metrics_auto_detect="true") as server:
        assert send(server, "one", [photo(3)] * 3) == [200] * 3
        log = (server.folder / "logs" / "model_log.log").read_text()
        assert log.count("does not declare cam_audit_dropped_total") == 1
        assert read(server, "one") == {}
        # camserve sets what TorchServe's own handlers set.
        deadline = time.monotonic() + FLUSH_SECONDS
        while len(gauges := read(server, "one", r"(?:Handler|Prediction)Time")) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert {name for name, _ in gauges} == {"HandlerTime", "PredictionTime"}
        assert min(gauges.values()) > 0


def test_metrics_of_ones_own_are_kept_beside_ours(store, serve, tmp_path, capsys):
    own = {"name": "own_total", "unit": "Count", "dimensions": ["ModelName", "Level"]}
    block = yaml.safe_load(STANDARD.read_text())
    block["model_metrics"]["counter"] = [own]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(block))
    assert main(["metrics", str(tmp_path / "own.yaml")]) == 0
    joined = tmp_path / "joined.yaml"
    joined.write_text(capsys.readouterr().out)
    assert main(["metrics", str(joined)]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == yaml.safe_load(joined.read_text())
    assert printed["ts_metrics"] == block["ts_metrics"]
    assert printed["model_metrics"]["counter"][0] == own
    with serve(store["one"], metrics_config=str(joined)) as server:
        assert send(server, "one", [photo(3)] * 3) == [200] * 3
        await_count(server, "one", 3)
        assert "does not declare" not in (server.folder / "logs" / "model_log.log").read_text()


def test_the_shipped_metrics_are_torchserves_and_ours():
    from camserve.monitor.series import COUNTERS, GAUGES
    from camserve.serving.engines.metrics import MODEL_LABELS

    theirs = yaml.safe_load(STANDARD.read_text())
    shipped = yaml.safe_load((Path(__file__).parents[2] / "config" / "metrics.yaml").read_text())
    assert shipped["ts_metrics"] == theirs["ts_metrics"]
    for kind, ours in (("counter", COUNTERS), ("gauge", GAUGES)):
        declared = {metric["name"]: tuple(metric["dimensions"]) for metric in shipped["model_metrics"][kind]}
        standard = {metric["name"]: tuple(metric["dimensions"]) for metric in theirs["model_metrics"].get(kind, [])}
        assert declared == {**standard, **{name: (*labels, *MODEL_LABELS) for name, labels in ours.items()}}
