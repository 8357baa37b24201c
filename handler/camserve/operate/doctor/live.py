"""Asking a running server."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil

from camserve.client.http import shared_http
from camserve.errors import ConfigError, describe_silence
from camserve.operate.doctor.files import check_model
from camserve.operate.doctor.findings import ADVICE, UNCHECKED, UNSAFE, Finding
from camserve.operate.doctor.limits import check_limits
from camserve.operate.doctor.rules import is_loopback

SECONDS = 10
NO_MODEL = "camserve-doctor-asks-for-no-model"


def check_server(url: str, token: str, metrics_url: str | None = None) -> list[Finding]:
    """Return what a running server's management and metrics sides show. ConfigError: nothing answers.

    ``metrics_url`` is by default on the port after ``url``'s. Nothing is changed: the one DELETE names a model
    that does not exist.
    """
    url = url.rstrip("/")
    return [
        *_check_access(url, token),
        *_check_listening(url),
        *_check_metrics(metrics_url or _metrics_url(url)),
        *_check_models(url, token),
    ]


def _metrics_url(url: str) -> str:
    """Return the metrics side's address if the ports are neighbours, as TorchServe's are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{(parts.port or 80) + 1}/metrics"


def _check_access(url: str, token: str) -> Iterator[Finding]:
    if _ask("GET", f"{url}/models", "").is_success:
        risk = "management answers without a token"
        yield Finding(UNSAFE, url, risk, "disable_token_authorization=false")
    status = _ask("DELETE", f"{url}/models/{NO_MODEL}", token).status_code
    if status == httpx.codes.NOT_FOUND:
        yield Finding(UNSAFE, url, "a management call can register a model, which is code", "enable_model_api=false")


def _check_listening(url: str) -> Iterator[Finding]:
    """Check this machine's listening sockets; of another machine, the address alone."""
    parts = urlsplit(url)
    port = parts.port or 80
    open_to_all = not is_loopback(parts.hostname or "")
    if not open_to_all:
        open_to_all = not all(is_loopback(host) for host in _listening_hosts(port))
    if open_to_all:
        risk = "the management port can be reached from other machines"
        yield Finding(UNSAFE, url, risk, f"management_address=http://127.0.0.1:{port}")


def _listening_hosts(port: int) -> list[str]:
    connections = psutil.net_connections("tcp")
    addresses = [tuple(socket.laddr) for socket in connections if socket.status == psutil.CONN_LISTEN and socket.laddr]
    return [str(host).replace("::ffff:", "") for host, number in addresses if number == port]


def _check_metrics(url: str) -> Iterator[Finding]:
    try:
        answer = shared_http().get(url, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL):
        yield Finding(ADVICE, url, "the metrics side does not answer", "metrics_address=http://127.0.0.1:8082")
        return
    if not answer.is_success or "# TYPE" not in answer.text:
        yield Finding(ADVICE, url, "the metrics side answers nothing", "metrics_mode=prometheus")


def _check_models(url: str, token: str) -> Iterator[Finding]:
    listed = _ask("GET", f"{url}/models", token)
    if not listed.is_success:
        what = "wants another token" if token else "wants a token"
        risk = f"the server {what} ({listed.status_code}): its models and limits were not looked at"
        yield Finding(UNCHECKED, url, risk, "--token KEY  (key_file.json of the server's working folder, 'management')")
        return
    for model in listed.json()["models"]:
        name = model["modelName"]
        where = f"{url}/models/{name}"
        (described, *_) = _ask("GET", f"{where}?customized=true", token).json()
        yield from check_model(described, where)
        if not any(worker["status"] == "READY" for worker in described["workers"]):
            yield Finding(ADVICE, where, "no worker is READY", "see logs/model_log.log")
        if "limits" not in (described.get("customizedMetadata") or {}):
            yield Finding(ADVICE, where, "this model is not served by camserve", f"camserve archive --name {name} ...")
        else:
            yield from check_limits(described, where)


def _ask(method: str, url: str, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return shared_http().request(method, url, headers=headers, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigError(describe_silence(url, error)) from None
