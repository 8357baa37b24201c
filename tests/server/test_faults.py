"""Faults inside the model stay with their own row; a killed worker costs the batch in flight and nothing more."""

import random
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import faulty_network as faults
import numpy as np
import psutil
import pytest
import requests
from PIL import Image

import hostile

pytestmark = pytest.mark.server

RECOVERY_SECONDS = 60
SIGNED = {"evidence": "signed"}
LOST = (500, 507)  # what TorchServe itself answers for the batch of a worker that died: both were seen


def picture(red, green=50):
    return hostile.encode(Image.new("RGB", (64, 64), (red, green, 10)), "PNG")


def ask(server, body, **options):
    return requests.post(f"{server.inference.url}/predictions/faulty", files={"data": body}, data=options, timeout=60)


def test_an_explanation_that_takes_too_long_is_given_up_and_the_prediction_stands(unsafe):
    """Three targets cost three backward passes of half a second each; a pass that has begun is finished."""
    body, worker = picture(faults.SLOW), pid_of(unsafe)
    classes = {"method": "gradcam,layercam", "target": "top:3", "evidence": "signed"}
    with ThreadPoolExecutor(3) as pool:
        hurried = pool.submit(ask, unsafe, body, **classes, deadline_ms="700")
        patient = pool.submit(ask, unsafe, body, **classes)
        other = pool.submit(ask, unsafe, picture(faults.FINE), target="top:3", evidence="signed")
    answer = hurried.result().json()
    assert [each["status"] for each in answer["explanations"]] == ["skipped"] * 6
    assert {each["code"] for each in answer["warnings"]} == {"OUT_OF_TIME"}
    assert answer["predictions"] == patient.result().json()["predictions"]
    assert [each["status"] for each in patient.result().json()["explanations"]] == ["ok"] * 6
    assert [each["status"] for each in other.result().json()["explanations"]] == ["ok"] * 3
    assert pid_of(unsafe) == worker


def together(server, bodies):
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: ask(server, body), bodies))


def pid_of(server):
    (worker,) = server.workers("faulty")
    return int(worker["pid"])


def wait_until_ready(server, dead):
    """Wait for another worker than ``dead``."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < deadline:
        workers = server.workers("faulty")
        if workers and workers[0]["status"] == "READY" and int(workers[0]["pid"]) != dead:
            return
        time.sleep(0.2)
    pytest.fail("no worker came back")


def told(answer):
    body = answer.json()
    body.pop("request_id", None)
    return body


@pytest.mark.parametrize(
    ("red", "status", "code"),
    [
        (faults.RAISES, 500, "model_failed"),
        (faults.NOT_A_NUMBER, 500, "model_failed"),
        (faults.CUDA_MEMORY, 507, "out_of_memory"),
        (faults.HOST_MEMORY, 507, "out_of_memory"),
    ],
)
def test_a_fault_in_the_forward_pass_costs_its_own_row(unsafe, red, status, code):
    alone, worker = told(ask(unsafe, picture(faults.FINE))), pid_of(unsafe)
    bodies = [picture(faults.FINE)] * 7
    bodies.insert(3, picture(red))
    answers = together(unsafe, bodies)
    bad = answers.pop(3)
    assert (bad.status_code, bad.json()["error"]["code"]) == (status, code)
    assert [answer.status_code for answer in answers] == [200] * 7
    for answer in answers:
        for got, wanted in zip(told(answer)["predictions"], alone["predictions"], strict=True):
            assert got["score"] == pytest.approx(wanted["score"], abs=1e-4)
    assert pid_of(unsafe) == worker


@pytest.mark.parametrize("red", [faults.BACKWARD_MEMORY, faults.BACKWARD_NAN])
def test_a_fault_in_the_explanation_costs_the_explanation_never_the_prediction(unsafe, red):
    bodies = [picture(faults.FINE)] * 5
    bodies.insert(2, picture(red))
    answers = [told(answer) for answer in together(unsafe, bodies)]
    bad = answers.pop(2)
    assert len(bad["predictions"]) == 3
    assert [each["status"] for each in bad["explanations"]] == ["failed"]
    assert [each["code"] for each in bad["warnings"]] == ["EXPLANATION_FAILED"]
    assert all(each["explanations"][0]["status"] in ("ok", "blank") for each in answers)


def counted(server):
    lines = requests.get(server.metrics_url, timeout=10).text.splitlines()
    return [line for line in lines if line.startswith("cam_batches_total{")]


def test_the_frontend_would_believe_a_forged_line(unsafe):
    """The control of the tests that nothing forged arrives: a line past every guard does."""
    assert ask(unsafe, picture(faults.PRINTS)).status_code == 200
    deadline = time.monotonic() + 20
    while not any(float(line.split()[-1]) >= 31337 for line in counted(unsafe)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_forward_pass_beyond_the_response_timeout_is_a_500_and_the_server_recovers(unsafe):
    worker = pid_of(unsafe)
    answer = ask(unsafe, picture(faults.SLEEPS))
    assert answer.status_code == 500
    wait_until_ready(unsafe, worker)
    assert ask(unsafe, picture(faults.FINE)).status_code == 200


def test_a_killed_worker_costs_at_most_the_batch_in_flight(unsafe):
    ask(unsafe, picture(faults.FINE))
    worker = pid_of(unsafe)
    bodies = [picture(faults.FINE, green) for green in range(40)]
    with ThreadPoolExecutor(16) as pool:
        pending = [pool.submit(ask, unsafe, body) for body in bodies]
        psutil.Process(worker).kill()
        statuses = [each.result().status_code for each in pending]
    assert statuses.count(200) >= len(bodies) - 8
    assert set(statuses) <= {200, *LOST}
    wait_until_ready(unsafe, worker)


def broken(archive, target, change):
    """Copy an archive with one of its files changed."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, change(name, source.read(name)))


def another_version(name, data):
    return data.replace(b'"modelVersion": "1.0"', b'"modelVersion": "2.0"') if name.endswith("MANIFEST.json") else data


BREAKS = {
    "changed weights": (lambda name, data: data[:-1] + b"x" if name == "weights.safetensors" else data, "SHA-256"),
    "cut weights": (lambda name, data: data[:200] if name == "weights.safetensors" else data, "SHA-256"),
    "no such layer": (
        lambda name, data: data.replace(b"name: features", b"name: feature"),
        "no module named 'feature'",
    ),
    "unknown key": (
        lambda name, data: data.replace(b"selftest: refuse", b"selftests: refuse"),
        "did you mean 'selftest'",
    ),
    "outside": (lambda name, data: data.replace(b"labels: labels.txt", b"labels: ../../x"), "does not lie inside"),
    "other answers": (lambda name, data: data.replace(b"- 0.0\n", b"- 0.4\n"), "not"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_second_version_does_not_load_and_the_first_serves_on(unsafe, faulty_archive, name):
    change, reason = BREAKS[name]
    target = faulty_archive.with_name(f"broken-{name.replace(' ', '-')}.mar")
    broken(faulty_archive, target, lambda file, data: another_version(file, change(file, data)))
    models = f"{unsafe.management.url}/models"
    log = unsafe.folder / "logs" / "model_log.log"
    start = log.stat().st_size
    try:
        answer = requests.post(
            f"{models}?url={target.name}&initial_workers=1&synchronous=true&startup_timeout=20", timeout=120
        )
        assert answer.status_code >= 400
        lines = [line for line in log.read_text()[start:].splitlines() if "camserve: " in line]
        assert any(reason in line for line in lines), lines
        assert told(ask(unsafe, picture(faults.FINE)))["model"]["version"] == "1.0"
    finally:
        requests.delete(f"{models}/faulty/2.0", timeout=60)
        target.unlink()


@pytest.fixture
def four_workers(unsafe):
    """The same server with four workers for the faulty network, and with one again afterwards."""
    models = f"{unsafe.management.url}/models/faulty"
    for count in (4, 1):
        wanted = {"min_worker": count, "max_worker": count, "synchronous": "true"}
        requests.put(models, params=wanted, timeout=120).raise_for_status()
        deadline = time.monotonic() + RECOVERY_SECONDS
        while [each["status"] for each in unsafe.workers("faulty")] != ["READY"] * count:
            assert time.monotonic() < deadline, f"not {count} workers: {unsafe.workers('faulty')}"
            time.sleep(0.2)
        if count == 4:
            yield unsafe


def test_each_of_64_clients_of_four_workers_gets_its_own_answer(four_workers):
    """5,000 answers, each equal to that of the same request alone; one in ten is refused or fails."""
    chance = random.Random(30)
    kinds = [(green, method) for green in range(0, 200, 10) for method in ("gradcam", "layercam")]
    alone = {kind: told(ask(four_workers, picture(faults.FINE, kind[0]), method=kind[1], **SIGNED)) for kind in kinds}

    def own(number):
        green, method = kind = chance.choice(kinds)
        if number % 20 == 7:
            return ask(four_workers, picture(faults.NOT_A_NUMBER, green)).status_code == 500
        if number % 20 == 9:
            refused = ask(four_workers, picture(faults.FINE, green), target=f"no-{number}").json()
            return f"no-{number}" in refused["error"]["message"]
        top_k = 1 + number % 3
        answer = ask(four_workers, picture(faults.FINE, green), method=method, top_k=top_k, **SIGNED).json()
        (given,), (wanted,) = answer["explanations"], alone[kind]["explanations"]
        return (
            len(answer["predictions"]) == top_k
            and given["method"] == method
            and abs(answer["predictions"][0]["score"] - alone[kind]["predictions"][0]["score"]) < 1e-4
            and np.abs(np.array(given["grid"]) - wanted["grid"]).max() < 1e-3
        )

    with ThreadPoolExecutor(64) as pool:
        assert sum(pool.map(own, range(5_000))) == 5_000
