"""Loading archives into this process and serving them until a signal comes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import uvicorn

from camserve.asgi.app import App, Served
from camserve.asgi.batches import Batches, BatchRules
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.build.archive_file import extract_all
from camserve.build.unpack import read_contents
from camserve.errors import ConfigError
from camserve.operate.endpoint import Endpoint, curl_line
from camserve.operate.ports import LOOPBACK
from camserve.serving.engines.answering import RESPONSE_TIMEOUT, Answering, load_worker, recorders_into
from camserve.values import Progress

KEPT_SECONDS = 30  # a connection without requests stays open so long, and what is under way at the end may take so long
MOST_BYTES = 6_553_500  # of a request, as the shipped config.properties has it
CONNECTIONS = 1024
WAITING = 64  # requests of a model, likewise
DELAY_MS = 100  # maxBatchDelay, TorchServe's own where an archive names none
TOKEN_FILE = "token"


def serve(archives: Sequence[Path], port: int, folder: Path, report: Progress) -> int:
    """Serve on loopback until a signal comes; return the exit status. ConfigError: an archive does not load."""
    metrics = Metrics()
    with ExitStack() as stack:
        models = {path.stem: _load(path, metrics, stack, report) for path in archives}
        side = Endpoint(f"http://{LOOPBACK}:{port}", _token(folder))
        listening = stack.enter_context(socket.create_server((LOOPBACK, port), backlog=2048))
        app = App(models, side.token, MOST_BYTES, metrics).asgi()
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
        report(f"ready; the token is in {folder / TOKEN_FILE}, counters are at {side.url}/metrics; Ctrl-C stops")
        for model in models:
            print(curl_line(side, model, "photo.jpg"), flush=True)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _load(path: Path, metrics: Metrics, stack: ExitStack, report: Progress) -> Served:
    report(f"loading {path.name}")
    contents = read_contents(path)
    unpacked = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="camserve-")))
    extract_all(path, unpacked)
    if (workers := int(contents.config.get("minWorkers", 1))) > 1:
        report(f"{path.name}: minWorkers is {workers}; this process is one worker, which uses all cores")
    config: dict[str, Any] = {**contents.config, "minWorkers": 1}
    rules = BatchRules(
        int(config.get("batchSize", 1)),
        float(config.get("maxBatchDelay", DELAY_MS)) / 1000,
        WAITING,
        float(config.get("responseTimeout", RESPONSE_TIMEOUT)),
    )
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    pipeline = load_worker(unpacked, config, contents.name, contents.version, device, rules.size)
    pipeline.monitor.report_to(*recorders_into(ModelSink(metrics, path.stem, contents.version), pipeline))
    return Served(contents.version, Batches(Answering(pipeline), rules))


def _token(folder: Path) -> str:
    """Return the token in a folder, a new one where there is none."""
    path = folder / TOKEN_FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        token = path.read_text(encoding="utf-8").strip()
        if not token.isascii() or not token.isprintable() or len(token) < 16:
            raise ConfigError(f"{path} holds no token: delete it, and a new one is made") from None
        return token
    with os.fdopen(file, "w", encoding="utf-8") as written:
        written.write(token := secrets.token_urlsafe(24))
    return token


def _end(_number: int, _frame: object) -> None:
    """Nothing: uvicorn has ended already."""
