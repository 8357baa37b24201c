"""Serve archives on loopback until interrupted: PORT inference, then management, metrics, gRPC x 2."""

from __future__ import annotations

import argparse
import signal
import tempfile
from pathlib import Path

from camserve.build.unpack import check_names
from camserve.cli.terminal import say
from camserve.operate.ports import FIRST_PORT, PORTS_NEEDED, choose_port
from camserve.operate.server import Server, curl_line
from camserve.operate.shipped import SHIPPED_CONFIG

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
    """Serve until interrupted."""
    port = choose_port(args.port, say)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="camserve-"))
    check_names(args.archives, say)
    server = Server(args.archives, folder, port, args.config)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.start(say)
    try:
        say(f"ready; logs and tokens in {server.folder}; Ctrl-C stops")
        for model in server.models:
            print(curl_line(server, model, "photo.jpg"), flush=True)
        signal.pause()
    finally:
        server.stop()
    return 0
