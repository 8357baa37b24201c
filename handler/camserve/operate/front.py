"""nginx before a server: the one address that clients reach, its tokens, and its state as files in its folder."""

from __future__ import annotations

import grp
import os
import pwd
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from camserve.client.http import shared_http
from camserve.errors import ConfigError, quote
from camserve.operate.client_tokens import ClientTokens
from camserve.operate.daemon import Daemon, describe_end, last_lines, launch
from camserve.operate.endpoint import Endpoint
from camserve.operate.ports import LOOPBACK, is_free, join_address, reachable_host
from camserve.operate.server import STOP_SECONDS, Server
from camserve.operate.shipped import CONFIG_FOLDER
from camserve.viewer.page import render_page

TEMPLATE = CONFIG_FOLDER / "proxy" / "nginx.conf"
FOLDERS = ("clients", "draining", "ready", "tmp")
ALL_READY = ".all"
PAGE = "viewer.html"  # for browsers without a token
WORKERS_USER = "nobody"  # of nginx, where it is started by root
START_SECONDS = 10
READY_SECONDS = 2.0  # between two looks at the workers
FOREVER_SECONDS = 10 * 365 * 86_400
# For the server behind the front: its key is known to the front alone, which hands out tokens of its own.
SERVER_PROPERTIES = {"token_expiration_min": str(FOREVER_SECONDS // 60)}


@dataclass(frozen=True)
class FrontLimits:
    """What a client may hold, and for how long."""

    idle_seconds: int = 10  # between two pieces of a body or an answer
    header_seconds: int = 5
    client_requests: int = 64  # at once with one token


class Front:
    """One nginx before one server, on loopback unless it is told another address."""

    def __init__(
        self,
        server: Server,
        port: int,
        origins: Sequence[str] = (),
        limits: FrontLimits | None = None,
        host: str = LOOPBACK,
        tokens: ClientTokens | None = None,
    ) -> None:
        """Prepare to listen on ``host:port``; pages of ``origins`` may call, and whoever has one of ``tokens``.

        ConfigError: no nginx, or a word is wrong.
        """
        self.folder = server.folder / "front"
        self._server = server
        self._port = port
        self._origins = [_check_origin(origin) for origin in origins]
        self._limits = limits or FrontLimits()
        self._listen = join_address(host, port, "--listen")
        self._host = reachable_host(host)
        self._tokens = tokens
        self._shared: set[str] = set()  # of ``tokens``, that are let in now
        self._program = find_nginx()
        self._daemon: Daemon | None = None
        self._token = ""
        self._looked = 0.0
        if not is_free(port):
            raise ConfigError(f"port {port} is taken: name another one for --proxy")
        if re.search(r'["$\\\x00-\x1f]', str(self.folder)):
            raise ConfigError(f"nginx cannot use a folder with quotes, dollars or backslashes: {quote(self.folder)}")

    def start(self) -> None:
        """Start nginx before a server that is ready. ConfigError: why it cannot be."""
        self._prepare_folder()
        config, log = self.folder / "nginx.conf", self.folder / "start.log"
        if launch([self._program, "-c", str(config), "-p", str(self.folder)], log, self.folder):
            raise ConfigError(f"nginx does not start: {last_lines(log)}")
        self._daemon = Daemon(_read_pid(self.folder / "nginx.pid"))
        if self._tokens is None:
            self._token = add_client(self.folder, FOREVER_SECONDS)
        self.look()
        self._check_reach()

    def _prepare_folder(self) -> None:
        for name in FOLDERS:
            (self.folder / name).mkdir(mode=0o711, parents=True, exist_ok=True)
        page = self.folder / PAGE
        page.write_bytes(render_page(None).body)
        page.chmod(0o644)
        config = self.folder / "nginx.conf"
        config.unlink(missing_ok=True)
        (self.folder / "nginx.pid").unlink(missing_ok=True)
        file = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it holds the server's key
        with os.fdopen(file, "w", encoding="utf-8") as written:
            written.write(self._render())

    def _render(self) -> str:
        response_seconds = max(self._server.response_seconds(model) for model in self._server.models)
        values = {
            "USER": f"user {WORKERS_USER} {_group_of(WORKERS_USER)};" if os.geteuid() == 0 else "",
            "RUN": self.folder,
            "LISTEN": self._listen,
            "UPSTREAM": self._server.inference.url.partition("//")[2],
            "KEY": self._server.inference.token,
            "ORIGINS": " ".join(f'"{origin}" $http_origin;' for origin in self._origins),
            "BODY_BYTES": self._server.request_bytes,
            "READ_SECONDS": 2 * response_seconds + 5,
            "IDLE_SECONDS": self._limits.idle_seconds,
            "HEADER_SECONDS": self._limits.header_seconds,
            "CLIENT_REQUESTS": self._limits.client_requests,
        }
        lines = [line for line in TEMPLATE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        return re.sub("@([A-Z_]+)@", lambda found: str(values[found[1]]), "\n".join(lines) + "\n")

    def _check_reach(self) -> None:
        """Raise ConfigError where nginx's workers do not see the files that steer them."""
        answer = shared_http().get(f"{self.inference.url}/v2/health/ready", timeout=10)
        if not answer.is_success:
            raise ConfigError(f"nginx, which runs as {WORKERS_USER}, cannot read {self.folder}: name another --folder")

    @property
    def inference(self) -> Endpoint:
        """The address for clients, with a token that lives as long as this front unless a folder holds the tokens."""
        return Endpoint(f"http://{join_address(self._host, self._port)}", self._token or "TOKEN")

    def look(self) -> None:
        """Every few seconds, note which models are ready, and delete the tokens that have ended."""
        if time.monotonic() - self._looked < READY_SECONDS:
            return
        ready = {model for model in self._server.models if self._server.is_ready(model)}
        self._note(ready, [*self._server.models])
        self._share_tokens()
        for path in (self.folder / "clients").iterdir():
            if path.stat().st_mtime < time.time():
                path.unlink(missing_ok=True)
        self._looked = time.monotonic()

    def _share_tokens(self) -> None:
        """Let in whom ``tokens`` names now, and nobody whom it no longer names."""
        wanted = self._tokens.read() if self._tokens is not None else set()
        for token in wanted - self._shared:
            _let_in(self.folder / "clients" / token, FOREVER_SECONDS)
        for token in self._shared - wanted:
            (self.folder / "clients" / token).unlink(missing_ok=True)
        self._shared = wanted

    def _note(self, ready: set[str], models: Iterable[str]) -> None:
        for name in (*models, ALL_READY):
            path = self.folder / "ready" / name
            if name in ready or (name == ALL_READY and ready == set(models)):
                path.touch()
            else:
                path.unlink(missing_ok=True)

    def poll(self) -> int | None:
        """Return how nginx ended; None: it runs, or was never started."""
        return None if self._daemon is None else self._daemon.poll()

    @property
    def is_running(self) -> bool:
        """Whether nginx was started and has not ended."""
        return self._daemon is not None and self._daemon.poll() is None

    def describe_end(self) -> str:
        """Return how nginx ended, in words."""
        code = self.poll()
        return "it runs" if code is None else f"{describe_end(code)}: {last_lines(self.folder / 'error.log', 2)}"

    def drain(self) -> None:
        """Accept no more requests, and end when those under way are answered."""
        if self._daemon is not None:
            self._daemon.signal(signal.SIGQUIT)

    def stop(self) -> None:
        """End nginx, and delete its state but for the tokens of clients and the logs."""
        if self._daemon is not None:
            self._daemon.stop(STOP_SECONDS)
        for token in {self._token, *self._shared} - {""}:
            (self.folder / "clients" / token).unlink(missing_ok=True)
        for name in ("tmp", "ready"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("nginx.conf", PAGE):
            (self.folder / name).unlink(missing_ok=True)


def find_nginx() -> str:
    """Return the path of nginx. ConfigError: it is not installed."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if found is None:
        raise ConfigError("--proxy needs nginx: apt-get install nginx-light")
    return found


def add_client(folder: Path, seconds: float) -> str:
    """Return a new token that lets a client in for so long: an empty file whose time is the token's end."""
    token = secrets.token_urlsafe(24)
    _let_in(folder / "clients" / token, seconds)
    return token


def _let_in(path: Path, seconds: float) -> None:
    path.touch(mode=0o644)
    os.utime(path, (time.time(), time.time() + seconds))


def _check_origin(origin: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", origin):
        raise ConfigError(f"--cors {quote(origin)} is no origin: write https://your.site")
    return origin.lower()


def _group_of(user: str) -> str:
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name


def _read_pid(path: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip()):
            return int(text)
        time.sleep(0.05)
    raise ConfigError(f"nginx has not written {path}")
