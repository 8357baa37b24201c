"""A server without tokens and with the model API: broken archives, bare requests, and what the doctor says."""

import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import faulty_network as faults
import pytest
import requests
from faulty_client import ask, body_of, picture

from camserve.operate.doctor.findings import UNSAFE
from camserve.operate.doctor.live import check_server

pytestmark = pytest.mark.server


def copy_changed(archive, target, change):
    """Copy an archive with one of its files changed."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, change(name, source.read(name)))


def renumber(name, data, version):
    """Give the archive of version 1.0 another one."""
    if not name.endswith("MANIFEST.json"):
        return data
    return data.replace(b'"modelVersion": "1.0"', f'"modelVersion": "{version}"'.encode())


BREAKS = {
    "changed weights": (lambda name, data: data[:-1] + b"x" if name == "weights.safetensors" else data, "SHA-256"),
    "cut weights": (lambda name, data: data[:200] if name == "weights.safetensors" else data, "SHA-256"),
    "another layer": (lambda name, data: data.replace(b"name: features", b"name: feature"), "camserve.layers in"),
    "labels that moved": (
        lambda name, data: b"dog\nbird\ncat\n" if name == "labels.txt" else data,
        "'labels.txt' was changed since the archive was built",
    ),
    "unknown key": (
        lambda name, data: data.replace(b"selftest: refuse", b"selftests: refuse"),
        "did you mean 'selftest'",
    ),
    "outside": (lambda name, data: data.replace(b"labels: labels.txt", b"labels: ../../x"), "camserve.outputs in"),
    "other answers": (lambda name, data: data.replace(b"- 0.0\n", b"- 0.4\n"), "camserve.input in"),
}


def test_broken_further_versions_do_not_load_and_the_first_serves_on(unsafe, faulty_archive):
    models = f"{unsafe.management.url}/models"
    versions = {f"{number}.0": name for number, name in enumerate(BREAKS, start=2)}

    def register(version):
        """Return the status of loading a broken archive as this version, which never starts."""
        change, _ = BREAKS[versions[version]]
        target = faulty_archive.with_name(f"broken-{version}.mar")
        copy_changed(faulty_archive, target, lambda name, data: renumber(name, change(name, data), version))
        try:
            wanted = {"url": target.name, "initial_workers": 1, "synchronous": "true", "startup_timeout": 60}
            return requests.post(models, params=wanted, timeout=120).status_code
        finally:
            requests.delete(f"{models}/faulty/{version}", timeout=60)
            target.unlink()

    with ThreadPoolExecutor(len(versions)) as pool:
        statuses = list(pool.map(register, versions))
    log = (unsafe.folder / "logs" / "model_log.log").read_text().splitlines()
    for (version, name), status in zip(versions.items(), statuses, strict=True):
        reasons = [line for line in log if f"faulty_{version}-" in line and "camserve: " in line]
        assert status >= 400, name
        assert any(BREAKS[name][1] in line for line in reasons), (name, reasons)
    assert body_of(ask(unsafe, picture(faults.FINE)))["model"]["version"] == "1.0"


@pytest.mark.parametrize("path", ["/faulty/predict", "/predictions/faulty"])
def test_a_request_without_any_header_is_answered(unsafe, path):
    """On the legacy route such a row looks like a gRPC call."""
    workers = unsafe.workers("faulty")
    with socket.create_connection(("127.0.0.1", urlsplit(unsafe.inference.url).port), 30) as raw:
        raw.sendall(f"POST {path} HTTP/1.0\r\n\r\n".encode())
        received = b""
        while more := raw.recv(65_536):
            received += more
            if b"missing_image" in received:
                break
    assert b"missing_image" in received
    assert unsafe.workers("faulty") == workers


def test_the_doctor_finds_what_is_unsafe_about_a_running_server(unsafe):
    found = check_server(unsafe.management.url, "", "http://127.0.0.1:9/metrics")
    assert {finding.line for finding in found if finding.level == UNSAFE} == {
        "disable_token_authorization=false",
        "enable_model_api=false",
    }
    assert "the metrics side does not answer" in {finding.risk for finding in found}
    assert "maxBatchDelay: 10" in {finding.line for finding in found}
