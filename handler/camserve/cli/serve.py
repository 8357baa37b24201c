"""Serve archives on loopback until interrupted: PORT inference, then management, metrics, gRPC x 2."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from camserve.cli.terminal import say
from camserve.errors import ConfigError
from camserve.operate.endpoint import curl_line
from camserve.operate.ports import FIRST_PORT, PORTS_NEEDED, choose_port
from camserve.operate.server import Server
from camserve.operate.shipped import SHIPPED_CONFIG
from camserve.operate.supervisor import Supervisor

EXAMPLE = """example:
  camserve serve model_store/imagenet.mar --port 8080
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("archives", nargs="+", type=Path, metavar="N.mar")
    parser.add_argument("--port", type=int, help=f"first of {PORTS_NEEDED} ports ({FIRST_PORT}, or the next free ones)")
    parser.add_argument("--config", type=Path, default=SHIPPED_CONFIG, help="another config.properties")
    parser.add_argument("--folder", type=Path, help="where state, tokens and logs go; default: a new temporary folder")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes or the server ends; return the server's exit status."""
    port = choose_port(args.port, say)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="camserve-"))
    server = Server(args.archives, folder, port, args.config)
    supervisor = Supervisor(server, say)
    try:
        status = serve(server, supervisor)
    finally:
        server.stop()
        if args.folder is None and supervisor.was_asked:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def serve(server: Server, supervisor: Supervisor) -> int:
    """Start the server, say how to ask it, and wait for its end."""
    try:
        supervisor.start()
    except ConfigError:
        if not supervisor.was_asked or server.poll() is None:
            raise
    else:
        say(f"ready; logs and tokens in {server.folder}; Ctrl-C stops")
        for model in server.models:
            print(curl_line(server.inference, model, "photo.jpg"), flush=True)
    return supervisor.wait()
