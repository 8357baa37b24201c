"""A real TorchServe as a child process: started with the shipped configuration, watched, stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
import requests

from camserve.errors import ConfigError
from camserve.operate.doctor.files import read_properties
from camserve.operate.java import find_java
from camserve.operate.metrics import find_metrics
from camserve.operate.ports import LOOPBACK
from camserve.operate.shipped import SHIPPED_CONFIG
from camserve.values import Progress

START_SECONDS = 180
STOP_SECONDS = 30


@dataclass(frozen=True)
class Endpoint:
    """One HTTP side of a server and its token."""

    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """The header that lets a request in."""
        return {"Authorization": f"Bearer {self.token}"}


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
        self._properties = {**read_properties(config), **_metrics_line(config), **_addresses(port), **properties}
        self._process: subprocess.Popen[bytes] | None = None

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
        command = [script, "--start", "--foreground", "--ts-config", str(config)]
        return [*command, "--model-store", str(self._store), "--models", *models]

    def start(self, report: Progress) -> None:
        """Start the server and wait until every worker is READY. ConfigError: why it cannot be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}" for name, value in self._properties.items()]
        (self.folder / "config.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")
        report(f"starting: {shlex.join(self.command)}")
        with (self.folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait(report)
        except BaseException:
            self.stop()
            raise

    def _environment(self) -> dict[str, str]:
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            **os.environ,
            "JAVA_HOME": str(find_java()),
            "PATH": self._path,
            # The pid file, the worker sockets and the unpacked archives all go here, so that
            # several servers can run side by side.
            "TMPDIR": str(temporary),
            "TEMP": str(temporary),
            "LOG_LOCATION": str(self.folder / "logs"),
            "METRICS_LOCATION": str(self.folder / "logs"),
        }

    def _wait(self, report: Progress) -> None:
        deadline = time.monotonic() + START_SECONDS
        reported = time.monotonic()
        while time.monotonic() < deadline:
            if (reason := self._failure()) is not None:
                raise ConfigError(reason)
            if all(self._ready(model) for model in self.models):
                return
            if time.monotonic() - reported > 5:
                report("waiting for the workers to load the model")
                reported = time.monotonic()
            time.sleep(0.25)
        raise ConfigError(f"the workers were not READY within {START_SECONDS} s; see {self.folder}")

    def _failure(self) -> str | None:
        """Return why the server cannot start, once it is known."""
        log = self.folder / "logs" / "model_log.log"
        if log.is_file():
            found = re.search(r"RuntimeError: (camserve: .*)", log.read_text(encoding="utf-8", errors="replace"))
            if found:
                return f"the model does not load: {found[1]}"
        assert self._process is not None
        if self._process.poll() is None:
            return None
        tail = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        return f"torchserve stopped (status {self._process.returncode}): {' | '.join(tail)}"

    def _ready(self, model: str) -> bool:
        return any(worker["status"] == "READY" for worker in self.workers(model))

    def workers(self, model: str) -> list[dict[str, str]]:
        """Return what the management side says of a model's workers, or nothing while it does not answer."""
        try:
            side = self.management
            answer = requests.get(f"{side.url}/models/{model}", headers=side.headers, timeout=10)
            return list(answer.json()[0]["workers"]) if answer.ok else []
        except (requests.RequestException, OSError, ValueError, LookupError):
            return []

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
        return f"http://{LOOPBACK}:{self._port + 2}/metrics"

    def _token(self, side: str) -> str:
        path = self.folder / "key_file.json"
        return str(json.loads(path.read_text(encoding="utf-8"))[side]["key"]) if path.is_file() else ""

    @property
    def pid(self) -> int:
        """The process id of the Java server, which is the one to end."""
        return int((self.folder / "tmp" / ".model_server.pid").read_text(encoding="utf-8"))

    def stop(self) -> None:
        """End the launcher, Java and the workers by their process ids."""
        if self._process is None:
            return
        try:
            launcher = psutil.Process(self._process.pid)
            processes = [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            processes = []
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(processes, timeout=STOP_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOP_SECONDS)
        self._process = None

    def __enter__(self) -> Server:
        """Start quietly."""
        self.start(lambda _: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def curl_line(server: Server, model: str, photo: str, *options: str) -> str:
    """Return a curl command that works as it stands."""
    side = server.inference
    words = [f"curl -H 'Authorization: Bearer {side.token}'", *options, f"-T {photo}"]
    return " ".join([*words, f"{side.url}/predictions/{model}"])


def _metrics_line(config: Path) -> dict[str, str]:
    path = find_metrics(config)
    return {} if path is None else {"metrics_config": str(path.resolve())}


def _addresses(port: int) -> dict[str, str]:
    return {
        "inference_address": f"http://{LOOPBACK}:{port}",
        "management_address": f"http://{LOOPBACK}:{port + 1}",
        "metrics_address": f"http://{LOOPBACK}:{port + 2}",
        "grpc_inference_port": str(port + 3),
        "grpc_management_port": str(port + 4),
    }
