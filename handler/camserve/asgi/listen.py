"""One port on loopback for the application, until a signal comes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from camserve.asgi.app import App, Change, Served
from camserve.asgi.metrics import Metrics
from camserve.errors import ConfigError
from camserve.operate.client_tokens import TOKEN
from camserve.operate.doctor.files import read_properties
from camserve.operate.endpoint import Endpoint, browser_line, curl_line
from camserve.operate.ports import LOOPBACK
from camserve.operate.shipped import SHIPPED_CONFIG
from camserve.values import Progress

KEPT_SECONDS = 30  # a connection without requests stays open so long, and what is under way at the end may take so long
CONNECTIONS = 1024
TOKEN_FILE = "token"


def listen(
    models: Mapping[str, Served],
    metrics: Metrics,
    port: int,
    folder: Path,
    report: Progress,
    change: Change | None = None,
    has_hung_up: threading.Event | None = None,
) -> None:
    """Answer until a signal comes; the token lies in ``folder``, and ``change`` is called at SIGHUP.

    ``has_hung_up`` says whether a SIGHUP came before.

    ConfigError: the token there is none. KeyboardInterrupt: a second Ctrl-C cut off what was under way.
    """
    side = Endpoint(f"http://{LOOPBACK}:{port}", _token(folder))
    with socket.create_server((LOOPBACK, port), backlog=2048) as listening:

        def begin() -> None:
            report(f"ready; the token is in {folder / TOKEN_FILE}, counters are at {side.url}/metrics; Ctrl-C stops")
            for model in models:
                print(curl_line(side, model, "photo.jpg"), flush=True)
                print(browser_line(side, model), flush=True)

        app = App(models, side.token, most_body_bytes(), metrics, change, has_hung_up, begin).asgi()
        config = uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEPT_SECONDS,
            timeout_graceful_shutdown=KEPT_SECONDS,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)  # uvicorn stops at these, and raises them again once it has
        # Not asyncio's own words for what a second Ctrl-C, or the end of the time, cuts off.
        logging.getLogger("uvicorn.error").addFilter(_is_no_cut)
        server = uvicorn.Server(config)
        server.run(sockets=[listening])
        if server.force_exit:  # at a second Ctrl-C
            raise KeyboardInterrupt


def most_body_bytes() -> int:
    """Return how long a body may be: as TorchServe takes them."""
    return int(read_properties(SHIPPED_CONFIG)["max_request_size"])


def read_token(path: Path) -> str:
    """Return the token in a file. ConfigError: it holds none."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the token in {path}: {error.strerror}") from None
    if not TOKEN.fullmatch(token):
        raise ConfigError(f"{path} holds no token: delete it, and a new one is made")
    return token


def _token(folder: Path) -> str:
    """Return the token in a folder, a new one where there is none."""
    path = folder / TOKEN_FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_token(path)
    with os.fdopen(file, "w", encoding="utf-8") as written:
        written.write(token := secrets.token_urlsafe(24))
    return token


def _is_no_cut(record: logging.LogRecord) -> bool:
    is_cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not is_cancelled and "CancelledError" not in record.getMessage()


def _end(_number: int, _frame: object) -> None:
    """Nothing: uvicorn has ended already."""
