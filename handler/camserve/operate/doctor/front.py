"""Asking the address that clients use what it lets through to TorchServe. No request names a model that exists."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from camserve.errors import ConfigError, describe_silence
from camserve.operate.doctor.findings import ADVICE, UNSAFE, Finding

SECONDS = 10
PREDICT = "/predictions/camserve-doctor-asks-for-no-model"
LINE = "camserve serve --proxy, or config/proxy/nginx.conf"
# method, path, headers: what TorchServe should never see, and why.
PROBES: tuple[tuple[str, str, Mapping[str, str], str, str], ...] = (
    ("GET", "/models", {}, UNSAFE, "management is routed"),
    ("GET", "/metrics", {}, UNSAFE, "the metrics are routed, and no token guards them"),
    ("GET", "/api-description", {}, ADVICE, "the description of all routes is open"),
    ("POST", f"{PREDICT}/1.0/x/%0ay", {}, UNSAFE, "a line break in a path writes a line into TorchServe's log"),
    (
        "POST",
        PREDICT,
        {"Content-Length": "5", "Transfer-Encoding": "chunked"},
        UNSAFE,
        "a request with two framings passes: it can hide another one",
    ),
    ("POST", f"{PREDICT}?target=x", {}, ADVICE, "query strings pass, and TorchServe drops them without a word"),
)


def check_front(url: str) -> list[Finding]:
    """Return what a server's public address lets through. ConfigError: nothing answers."""
    found = [
        Finding(level, url, risk, LINE)
        for method, path, headers, level, risk in PROBES
        if _passes(*_ask(url, method, path, headers))
    ]
    if _ask(url, "GET", "/ping")[0] != http.client.OK:
        found.append(Finding(ADVICE, url, "/ping wants a token: health probes fail", LINE))
    return found


def _passes(status: int, body: bytes) -> bool:
    """Whether TorchServe answered: with what was asked for, or with an exception of its own."""
    return status == http.client.OK or re.search(rb'"type": "\w+Exception"', body) is not None


def _ask(url: str, method: str, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.putrequest(method, path)
        for name, value in (headers or {"Content-Length": "0"}).items():
            connection.putheader(name, value)
        connection.endheaders(b"0\r\n\r\n" if headers else None)
        answer = connection.getresponse()
        return answer.status, answer.read(10_000)
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(describe_silence(url, error)) from None
    finally:
        connection.close()
