"""Serve archives on loopback until interrupted: PORT inference, then management, metrics, gRPC x 2."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from camserve.build.mar.unpack import check_names
from camserve.cli.terminal import say
from camserve.errors import ConfigError
from camserve.operate.client_tokens import ClientTokens
from camserve.operate.endpoint import browser_line, curl_line
from camserve.operate.front import SERVER_PROPERTIES, Front
from camserve.operate.ports import FIRST_PORT, LOOPBACK, METRICS_OFFSET, PORTS_NEEDED, choose_port, join_address
from camserve.operate.server import Server
from camserve.operate.shipped import SHIPPED_CONFIG
from camserve.operate.supervisor import Supervisor

ENGINES = ("torchserve", "asgi", "ray")
EXAMPLE = """examples:
  camserve serve model_store/imagenet.mar --port 8080
  camserve serve model_store/imagenet.mar --proxy 8000 --cors https://your.site
  camserve serve model_store/imagenet.mar --engine asgi
  camserve serve /models/imagenet.mar --proxy 8000 --listen 0.0.0.0 --clients /etc/camserve/clients  # in a container
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("archives", nargs="+", type=Path, metavar="N.mar")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="without Java, on one port: asgi, this process alone; ray, the archive's workers under Ray Serve "
        "(%(default)s)",
    )
    parser.add_argument("--port", type=int, help=f"first of {PORTS_NEEDED} ports ({FIRST_PORT}, or the next free ones)")
    parser.add_argument(
        "--proxy",
        nargs="?",
        type=int,
        const=0,
        metavar="PORT",
        help=f"start nginx in front, for clients: limits, health, tokens of its own (docs/operating.md); "
        f"default: the port after those {PORTS_NEEDED}",
    )
    parser.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="with --proxy: a web page that may call"
    )
    parser.add_argument("--listen", metavar="IP", help=f"with --proxy: where the front listens ({LOOPBACK})")
    parser.add_argument(
        "--clients",
        type=Path,
        metavar="DIR",
        help="with --proxy: let in clients whose tokens lie in the files of this folder, such as a Secret's",
    )
    parser.add_argument(
        "--metrics-listen",
        metavar="IP",
        default=LOOPBACK,
        help="where the metrics listen, which want no token (%(default)s)",
    )
    parser.add_argument("--config", type=Path, default=SHIPPED_CONFIG, help="another config.properties")
    parser.add_argument("--folder", type=Path, help="where state, tokens and logs go; default: a new temporary folder")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes or the server ends; return the server's exit status."""
    _check_options(args)
    args.archives = check_names(args.archives, say)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="camserve-"))
    return _serve_by_torchserve(args, folder) if args.engine == "torchserve" else _serve_here(args, folder)


def _serve_here(args: argparse.Namespace, folder: Path) -> int:
    if args.engine == "ray":
        from camserve.asgi.on_ray.run import serve  # needs torch
    else:
        from camserve.asgi.run import serve

    return serve(args.archives, choose_port(args.port, say, 1), folder, say)


def _serve_by_torchserve(args: argparse.Namespace, folder: Path) -> int:
    port = choose_port(args.port, say)
    server = Server(args.archives, folder, port, args.config, Path(sys.executable), **_properties(args, port))
    front = None if args.proxy is None else _front(args, server, port)
    if front is not None and args.folder is None:
        folder.chmod(0o711)  # nginx's workers are another user where root starts it
    supervisor = Supervisor(server, front, say)
    try:
        status = _serve(server, front, supervisor)
    finally:
        supervisor.stop()
        if args.folder is None and supervisor.was_asked:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def _check_options(args: argparse.Namespace) -> None:
    for name in ("cors", "listen", "clients"):
        if getattr(args, name) and args.proxy is None:
            raise ConfigError(f"--{name} needs --proxy")
    if args.engine != "torchserve":
        for name, usual in (("proxy", None), ("config", SHIPPED_CONFIG), ("metrics_listen", LOOPBACK)):
            if getattr(args, name) != usual:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for TorchServe: leave it out with --engine {args.engine}"
                )


def _properties(args: argparse.Namespace, port: int) -> dict[str, str]:
    """Return the lines of config.properties that the options set."""
    lines = {
        "metrics_address": f"http://{join_address(args.metrics_listen, port + METRICS_OFFSET, '--metrics-listen')}"
    }
    return lines if args.proxy is None else {**lines, **SERVER_PROPERTIES}


def _front(args: argparse.Namespace, server: Server, port: int) -> Front:
    tokens = None if args.clients is None else ClientTokens(args.clients, say)
    host = args.listen or LOOPBACK
    return Front(server, args.proxy or port + PORTS_NEEDED, args.cors, host=host, tokens=tokens)


def _serve(server: Server, front: Front | None, supervisor: Supervisor) -> int:
    """Start server and front, say how to ask, and wait for the end."""
    try:
        supervisor.start()
    except ConfigError:
        if not supervisor.was_asked or server.poll() is None:
            raise
    else:
        say(f"ready; logs and tokens in {server.folder}; Ctrl-C stops")
        for model in server.models:
            print(curl_line((front or server).inference, model, "photo.jpg"), flush=True)
            if front is not None:
                print(browser_line(front.inference, model), flush=True)
    return supervisor.wait()
