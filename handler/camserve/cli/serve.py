"""camserve serve."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from camserve.errors import ConfigError
from camserve.operate.server import FIRST_PORT, PORTS_NEEDED, SHIPPED_CONFIG, Server, free_ports

EXAMPLE = """example:
  camserve serve model_store/imagenet.mar --port 8080
"""


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "serve",
        help="start TorchServe with the shipped configuration",
        description="Serve archives on loopback until interrupted: PORT inference, then management, metrics, gRPC x 2.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archives", nargs="+", type=Path, metavar="N.mar")
    parser.add_argument("--port", type=int, help=f"first of {PORTS_NEEDED} ports ({FIRST_PORT}, or the next free ones)")
    parser.add_argument("--config", type=Path, default=SHIPPED_CONFIG, help="another config.properties")
    parser.add_argument("--folder", type=Path, help="where state, tokens and logs go; default: a new temporary folder")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Serve until interrupted."""
    port = choose_port(asked.port)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="camserve-"))
    server = Server(asked.archives, folder, port, asked.config)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.start(say)
    try:
        say(f"ready; logs and tokens in {server.folder}; Ctrl-C stops")
        for model in server.models:
            print(curl_line(server, model, "photo.jpg"))
        signal.pause()
    finally:
        server.stop()
    return 0


def choose_port(asked: int | None) -> int:
    """Return the asked port, or the default or the next free one, and say so. ConfigError: it is taken."""
    port = free_ports(asked or FIRST_PORT)
    if asked and port != asked:
        raise ConfigError(f"one of the ports {asked} to {asked + PORTS_NEEDED - 1} is taken; {port} would be free")
    if port != (asked or FIRST_PORT):
        say(f"port {FIRST_PORT} is taken: using {port} to {port + PORTS_NEEDED - 1}")
    return port


def curl_line(server: Server, model: str, photo: str, *options: str) -> str:
    """Return a curl command that works as it stands."""
    side = server.inference
    words = [f"curl -H 'Authorization: Bearer {side.token}'", *options, f"-T {photo}"]
    return " ".join([*words, f"{side.url}/predictions/{model}"])


def say(line: str) -> None:
    """Tell progress, beside the results on standard output."""
    print(line, file=sys.stderr, flush=True)
