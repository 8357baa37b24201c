"""Faults inside the model stay with their own row; a killed worker costs the batch in flight and nothing more."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import faulty_network as faults
import numpy as np
import psutil
import pytest
import requests
from faulty_client import (
    RECOVERY_SECONDS,
    ask,
    body_of,
    codes_of,
    picture,
    pid_of,
    statuses_of,
    together,
    wait_until_ready,
)

pytestmark = pytest.mark.server

SIGNED = {"evidence": "signed"}
REQUESTS = int(os.environ.get("CAMSERVE_REQUESTS", "1600"))  # of 64 clients
LOST = (500, 507)  # what TorchServe itself answers for the batch of a worker that died


def test_an_explanation_that_takes_too_long_is_given_up_and_the_prediction_stands(unsafe):
    """Three targets cost three backward passes of half a second each; a pass that has begun is finished."""
    body, worker = picture(faults.SLOW), pid_of(unsafe)
    classes = {"method": "gradcam,layercam", "target": "top:3", "evidence": "signed"}
    answer = ask(unsafe, body, **classes, deadline_ms="700").json()  # alone: with others it would share their passes
    with ThreadPoolExecutor(2) as pool:
        patient = pool.submit(ask, unsafe, body, **classes)
        other = pool.submit(ask, unsafe, picture(faults.FINE), target="top:3", evidence="signed")
    assert statuses_of(answer) == ["skipped"] * 6
    assert codes_of(answer) == {"OUT_OF_TIME"}
    assert answer["predictions"] == patient.result().json()["predictions"]
    assert statuses_of(patient.result().json()) == ["ok"] * 6
    assert statuses_of(other.result().json()) == ["ok"] * 3
    assert pid_of(unsafe) == worker


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
    alone, worker = body_of(ask(unsafe, picture(faults.FINE))), pid_of(unsafe)
    bodies = [picture(faults.FINE)] * 7
    bodies.insert(3, picture(red))
    answers = together(unsafe, bodies)
    bad = answers.pop(3)
    assert (bad.status_code, bad.json()["error"]["code"]) == (status, code)
    assert [answer.status_code for answer in answers] == [200] * 7
    for answer in answers:
        for got, wanted in zip(body_of(answer)["predictions"], alone["predictions"], strict=True):
            assert got["score"] == pytest.approx(wanted["score"], abs=1e-4)
    assert pid_of(unsafe) == worker


@pytest.mark.parametrize("red", [faults.BACKWARD_MEMORY, faults.BACKWARD_NAN])
def test_a_fault_in_the_explanation_costs_the_explanation_never_the_prediction(unsafe, red):
    bodies = [picture(faults.FINE)] * 5
    bodies.insert(2, picture(red))
    answers = [body_of(answer) for answer in together(unsafe, bodies)]
    bad = answers.pop(2)
    assert len(bad["predictions"]) == 3
    assert statuses_of(bad) == ["failed"]
    assert codes_of(bad) == {"EXPLANATION_FAILED"}
    assert all(statuses_of(answer)[0] in ("ok", "blank") for answer in answers)


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
        statuses = [future.result().status_code for future in pending]
    assert statuses.count(200) >= len(bodies) - 8
    assert set(statuses) <= {200, *LOST}
    wait_until_ready(unsafe, worker)


@pytest.fixture
def four_workers(unsafe):
    """The same server with four workers for the faulty network, and with one again afterwards."""
    models = f"{unsafe.management.url}/models/faulty"
    for count in (4, 1):
        wanted = {"min_worker": count, "max_worker": count, "synchronous": "true"}
        requests.put(models, params=wanted, timeout=120).raise_for_status()
        deadline = time.monotonic() + RECOVERY_SECONDS
        while [worker["status"] for worker in unsafe.workers("faulty")] != ["READY"] * count:
            assert time.monotonic() < deadline, f"not {count} workers: {unsafe.workers('faulty')}"
            time.sleep(0.2)
        if count == 4:
            yield unsafe


def test_each_of_64_clients_of_four_workers_gets_its_own_answer(four_workers):
    """Every answer is equal to that of the same request alone; one in ten is refused or fails."""
    chance = random.Random(30)
    kinds = [(green, method) for green in range(0, 200, 10) for method in ("gradcam", "layercam")]
    alone = {
        kind: body_of(ask(four_workers, picture(faults.FINE, kind[0]), method=kind[1], **SIGNED)) for kind in kinds
    }

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
        assert sum(pool.map(own, range(REQUESTS))) == REQUESTS
