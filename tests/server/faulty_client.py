"""Requests to the server of the faulty network, and what its answers say."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from PIL import Image

import hostile

RECOVERY_SECONDS = 60


def picture(red, green=50):
    return hostile.encode(Image.new("RGB", (64, 64), (red, green, 10)), "PNG")


def ask(server, body, **options):
    return requests.post(f"{server.inference.url}/predictions/faulty", files={"data": body}, data=options, timeout=60)


def statuses_of(answer):
    return [explanation["status"] for explanation in answer["explanations"]]


def codes_of(answer):
    return {warning["code"] for warning in answer["warnings"]}


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


def body_of(answer):
    body = answer.json()
    body.pop("request_id", None)
    return body
