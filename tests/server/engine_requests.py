"""What clients send to an engine without TorchServe, and what they read of its answers."""

import base64
import gzip
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import requests
from supervised import supervised

import hostile
from camserve.operate.endpoint import Endpoint

PREDICT = "/predictions/imagenet"
PNG, JSON_TYPE = {"Content-Type": "image/png"}, {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
HOSTILE_FILES = (*hostile.mutated(20, 3), *hostile.garbage(20, 3))


@contextmanager
def started(engine, archive, folder, port):
    """Serve an archive by an engine while a block runs: the process, and where it answers."""
    with supervised(port, folder, archive, "--engine", engine) as process:
        process.until("ready; ")
        try:
            yield process, Endpoint(f"http://127.0.0.1:{port}", (folder / "token").read_text())
        finally:
            process.signal(signal.SIGTERM)
            process.end()


def ask(side, method, path, headers=None, **body):
    return requests.request(
        method, f"{side.url}{path}", headers={**side.headers, **(headers or {})}, timeout=60, **body
    )


def bodies_of(coffee):
    """What clients send: method, path, and the rest of a request."""
    text = base64.b64encode(coffee).decode()
    tensor = {"name": "a", "datatype": "BYTES", "shape": [1], "data": [text]}
    v1 = {"instances": [{"data": text, "target": "cup"}, {"data": "no base64!"}]}
    form = {"files": {"data": coffee}}
    return {
        "body": ("PUT", PREDICT, {"data": coffee}),
        "form": ("POST", PREDICT, {**form, "data": {"target": "cup,top:2", "method": "gradcam,layercam"}}),
        "headers": ("POST", PREDICT, {"data": coffee, "headers": {**PNG, "X-Camserve-Target": "cup"}}),
        "path": ("POST", f"{PREDICT}/1.0/target/cup/top_k/1", {"data": coffee, "headers": PNG}),
        "explanations": ("POST", "/explanations/imagenet", {"data": coffee, "headers": PNG}),
        "picture": ("POST", PREDICT, {"data": coffee, "headers": {**PNG, "Accept": "image/png"}}),
        "drawn": ("POST", PREDICT, {**form, "data": {"format": "overlay,heatmap,boxes"}}),
        "slow methods": ("POST", PREDICT, {**form, "data": {"method": "ablationcam,guided_gradcam"}}),
        "json": ("POST", PREDICT, {"json": {"data": text, "target": "cup"}}),
        "gzip": ("POST", PREDICT, {"data": gzip.compress(coffee, mtime=0), "headers": {"Content-Encoding": "gzip"}}),
        "urlencoded": ("POST", PREDICT, {"data": {"data": text, "target": "cup"}}),
        "v1": ("POST", "/v1/models/imagenet:predict", {"json": v1}),
        "v1 explain": ("POST", "/v1/models/imagenet:explain", {"json": {"instances": [{"b64": text}]}}),
        "v2": ("POST", "/v2/models/imagenet/infer", {"json": {"id": "x", "inputs": [tensor]}}),
        "v2 explain": ("POST", "/v2/models/imagenet/explain", {"json": {"inputs": [tensor]}}),
        "bad option": ("POST", PREDICT, {**form, "data": {"targets": "cup"}}),
        "unknown class": ("POST", PREDICT, {**form, "data": {"target": "cuppp"}}),
        "two pictures": ("POST", PREDICT, {"files": {"data": coffee, "image": coffee}}),
        "no picture": ("POST", PREDICT, {"files": {"target": (None, "cup")}}),
        "nothing": ("POST", PREDICT, {}),
        "lost as a form": ("POST", PREDICT, {"data": coffee, "headers": FORM}),
        "json as a form": ("POST", PREDICT, {"data": '{"data": "x"}', "headers": FORM}),
        "broken json": ("POST", PREDICT, {"data": b'{"data": ', "headers": JSON_TYPE}),
        "no json": ("POST", PREDICT, {"data": b"x", "headers": JSON_TYPE}),
        "broken gzip": ("POST", PREDICT, {"data": b"x", "headers": {"Content-Encoding": "gzip"}}),
        "text": ("POST", PREDICT, {"data": b"hello", "headers": {"Content-Type": "text/plain"}}),
        "v2 shape": ("POST", "/v2/models/imagenet/infer", {"json": {"inputs": [{**tensor, "shape": [9]}]}}),
        "bomb": ("POST", PREDICT, {"data": hostile.wide_png(60_000, 60_000)}),
    }  # fmt: skip


def without_ids(answer):
    content = re.sub(rb'"request_id\\?":\s?\\?"[^"\\]*\\?"', b'"request_id":""', answer.content)
    return answer.status_code, answer.headers["Content-Type"], content


def code_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


def ask_beside_hostile_files(side, good, count):
    """Send hostile files and a good request so many times, all at once; return the answers to the good ones."""
    method, path, rest = good
    with ThreadPoolExecutor(16) as pool:
        refused = [pool.submit(ask, side, "POST", PREDICT, data=body) for body in HOSTILE_FILES]
        answered = [pool.submit(ask, side, method, path, **rest) for _ in range(count)]
    assert {one.result().status_code for one in refused} <= {200, 400, 413, 415, 422}
    return [one.result() for one in answered]


def cut_off(process, side, coffee):
    """Press Ctrl-C twice while slow requests are under way; return the exit status."""
    slow = {"files": {"data": coffee}, "data": {"method": "guided_gradcam,ablationcam"}}
    with ThreadPoolExecutor(48) as pool:  # seconds of work on any machine
        asked = [pool.submit(ask, side, "POST", PREDICT, **slow) for _ in range(48)]
        time.sleep(0.5)
        for _ in range(2):
            process.signal(signal.SIGINT)
            time.sleep(0.3)
        status = process.end()
        assert not all(one.exception() is None and one.result().ok for one in asked)  # else nothing was cut off
    return status
