"""A real TorchServe as a child process: started with the shipped configuration, watched, stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from camserve.client.http import shared_http
from camserve.errors import ConfigError
from camserve.operate.daemon import Daemon, describe_end, last_lines, launch
from camserve.operate.doctor.files import read_properties
from camserve.operate.endpoint import Endpoint
from camserve.operate.java import find_java
from camserve.operate.metrics import metrics_line
from camserve.operate.ports import LOOPBACK, METRICS_OFFSET, addresses, check_socket_folder
from camserve.operate.shipped import SHIPPED_CONFIG
from camserve.values import Progress

START_SECONDS = 180
STOP_SECONDS = 30
DEFAULT_RESPONSE_SECONDS = 120  # TorchServe's own
DEFAULT_BYTES = 6_553_500  # its max_request_size and max_response_size
JAVA_CLASS = "org.pytorch.serve.ModelServer"


class Server:
    """One TorchServe that serves some archives on loopback until it is stopped."""

    def __init__(
        self,
        archives: Sequence[Path],
        folder: Path,
        port: int,
        config: Path = SHIPPED_CONFIG,
        python: Path = Path(sys.executable),
        **properties: str,
    ) -> None:
        """Prepare to serve ``archives`` on ports ``port`` to ``port + 4``, with state and logs in ``folder``.

        ``python`` is the interpreter whose torchserve runs; ``properties`` override lines of ``config``.
        ConfigError: a file is missing.
        """
        for path in (*archives, config):
            if not path.is_file():
                raise ConfigError(f"there is no file {path}")
        stores = {path.resolve().parent for path in archives}
        if len(stores) != 1:
            raise ConfigError("the archives must lie in one folder")
        self.models = {path.stem: path.name for path in archives}
        self.folder = folder.resolve()
        self._store = stores.pop()
        self._port = port
        self._bin = python.parent
        self._properties = {**read_properties(config), **metrics_line(config), **addresses(port), **properties}
        self._temporary = self.folder / "tmp"
        self._pid_file = self._temporary / ".model_server.pid"
        self._log = self.folder / "server.log"
        self._model_log = self.folder / "logs" / "model_log.log"
        self._read_from = 0  # byte of the model log
        self._daemon: Daemon | None = None
        self._early: int | None = None  # a signal that came before Java ran

    @property
    def _path(self) -> str:
        return f"{self._bin}{os.pathsep}{os.environ.get('PATH', '')}"

    @property
    def command(self) -> list[str]:
        """The plain torchserve command line."""
        script = shutil.which("torchserve", path=self._path)
        if script is None:
            raise ConfigError("torchserve is not installed: pip install 'camserve[serve]'")
        models = [f"{name}={file}" for name, file in self.models.items()]
        config = self.folder / "config.properties"
        command = [script, "--start", "--ts-config", str(config)]
        return [*command, "--model-store", str(self._store), "--models", *models]

    def start(self, report: Progress) -> None:
        """Start the server and wait until every worker is READY. ConfigError: why it cannot be."""
        self._prepare_folder()
        report(f"starting: {shlex.join(self.command)}")
        try:
            launch(self.command, self._log, self.folder, self._environment())
            if not self._pid_file.is_file():
                raise ConfigError(f"torchserve does not start: {last_lines(self._log)}")
            self._daemon = Daemon(self.pid)
            if self._early is not None:
                self._daemon.signal(self._early)
            self._wait(report)
        except BaseException:
            self.stop()
            raise

    def _prepare_folder(self) -> None:
        """Write the configuration; leave nothing of an earlier start but its logs. ConfigError: a server runs here."""
        check_socket_folder(self._temporary)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._pid_file.is_file() and _is_torchserve(self.pid):
            raise ConfigError(f"a server runs in {self.folder} already (process {self.pid}): name another --folder")
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        (self.folder / "key_file.json").unlink(missing_ok=True)
        self._read_from = self._model_log.stat().st_size if self._model_log.is_file() else 0
        lines = [f"{name}={value}" for name, value in self._properties.items()]
        (self.folder / "config.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "JAVA_HOME": str(find_java()),
            "PATH": self._path,
            # The pid file, the worker sockets and the unpacked archives all go here, so that
            # several servers can run side by side.
            "TMPDIR": str(self._temporary),
            "TEMP": str(self._temporary),
            "LOG_LOCATION": str(self.folder / "logs"),
            "METRICS_LOCATION": str(self.folder / "logs"),
        }

    def _wait(self, report: Progress) -> None:
        deadline = time.monotonic() + START_SECONDS
        reported = time.monotonic()
        while time.monotonic() < deadline:
            if (reason := self._failure()) is not None:
                raise ConfigError(reason)
            if all(self.is_ready(model) for model in self.models):
                return
            if time.monotonic() - reported > 5:
                report("waiting for the workers to load the model")
                reported = time.monotonic()
            time.sleep(0.25)
        raise ConfigError(f"the workers were not READY within {START_SECONDS} s; see {self.folder}")

    def _failure(self) -> str | None:
        """Return why the server cannot start, once it is known."""
        found = re.search(r"RuntimeError: (camserve: .*)", self._model_lines())
        if found:
            return f"the model does not load: {found[1]}"
        code = self.poll()
        return None if code is None else f"torchserve stopped ({describe_end(code)}): {last_lines(self._log)}"

    def _model_lines(self) -> str:
        """Return what the workers have written since this start; earlier ones write into the same file."""
        try:
            with self._model_log.open("rb") as log:
                log.seek(self._read_from)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def poll(self) -> int | None:
        """Return how Java ended: its exit status, or minus the signal; None: it runs, or was never started."""
        return None if self._daemon is None else self._daemon.poll()

    def signal(self, number: int) -> None:
        """Send a signal to Java, as soon as it runs."""
        if self._daemon is None:
            self._early = number
        else:
            self._daemon.signal(number)

    def is_ready(self, model: str) -> bool:
        """Whether a worker of the model has loaded it."""
        return any(worker["status"] == "READY" for worker in self.workers(model))

    def workers(self, model: str) -> list[dict[str, str]]:
        """Return what the management side says of a model's workers, or nothing while it does not answer."""
        return list(self._describe(model).get("workers", []))

    def response_seconds(self, model: str) -> int:
        """Return within how many seconds a worker of the model must answer a batch."""
        return int(self._describe(model).get("responseTimeout", DEFAULT_RESPONSE_SECONDS))

    def _describe(self, model: str) -> dict[str, Any]:
        try:
            side = self.management
            answer = shared_http().get(f"{side.url}/models/{model}", headers=side.headers, timeout=10)
            return dict(answer.json()[0]) if answer.is_success else {}
        except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError):
            return {}

    @property
    def request_bytes(self) -> int:
        """The largest request that is accepted."""
        return int(self._properties.get("max_request_size", DEFAULT_BYTES))

    @property
    def inference(self) -> Endpoint:
        """The side that predicts and explains."""
        return Endpoint(f"http://{LOOPBACK}:{self._port}", self._token("inference"))

    @property
    def management(self) -> Endpoint:
        """The side that describes models and scales workers."""
        return Endpoint(f"http://{LOOPBACK}:{self._port + 1}", self._token("management"))

    @property
    def metrics_url(self) -> str:
        """The address that Prometheus scrapes."""
        return f"http://{LOOPBACK}:{self._port + METRICS_OFFSET}/metrics"

    def _token(self, side: str) -> str:
        path = self.folder / "key_file.json"
        return str(json.loads(path.read_text(encoding="utf-8"))[side]["key"]) if path.is_file() else ""

    @property
    def pid(self) -> int:
        """The process id of the Java server, which is the one to end."""
        return int(self._pid_file.read_text(encoding="utf-8"))

    def stop(self) -> None:
        """End Java and the workers, and delete what they unpacked."""
        if self._daemon is not None:
            self._daemon.stop(STOP_SECONDS)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def leave(self) -> None:
        """Let the server go on when this process has ended."""
        if self._daemon is not None:
            self._daemon.leave()

    def __enter__(self) -> Server:
        """Start quietly."""
        self.start(lambda _: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def _is_torchserve(pid: int) -> bool:
    try:
        return JAVA_CLASS in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
