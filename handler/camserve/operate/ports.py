"""The loopback ports of a server: inference, management, metrics, and gRPC for the first two; and its sockets."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

from camserve.errors import ConfigError, quote
from camserve.values import Progress

LOOPBACK = "127.0.0.1"
FIRST_PORT = 8080
PORTS_NEEDED = 5
METRICS_OFFSET = 2  # from the first port
SOCKET_PATH = 107  # bytes that the name of a Unix socket may have


def choose_port(wanted: int | None, report: Progress, count: int = PORTS_NEEDED) -> int:
    """Return the first of ``count`` ports: the wanted one, or the default or the next free one, which is reported.

    ConfigError: one is taken.
    """
    port = free_ports(wanted or FIRST_PORT, count)
    if wanted and port != wanted:
        named = f"port {wanted}" if count == 1 else f"one of the ports {wanted} to {wanted + count - 1}"
        raise ConfigError(f"{named} is taken; {port} would be free")
    if port != (wanted or FIRST_PORT):
        report(f"port {FIRST_PORT} is taken: using {port}{f' to {port + count - 1}' if count > 1 else ''}")
    return port


def free_ports(first: int = FIRST_PORT, count: int = PORTS_NEEDED) -> int:
    """Return the first of ``count`` free neighbouring ports, ``first`` itself if possible."""
    for start in range(first, 65_000, count):
        if all(is_free(start + offset) for offset in range(count)):
            return start
    raise ConfigError(f"there are no {count} free neighbouring ports")


def is_free(port: int) -> bool:
    """Whether nothing listens on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def join_address(host: str, port: int, option: str = "host") -> str:
    """Return ``host:port``, of IPv6 with brackets. ConfigError: ``option`` gives no IP address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"{option} {quote(host)} is no IP address: write 0.0.0.0, or one of this machine's") from None
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def reachable_host(host: str) -> str:
    """Return an address at which this machine itself reaches what listens on ``host``."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return host
    return LOOPBACK if address.version == 4 else "::1"


def addresses(port: int) -> dict[str, str]:
    """Return the lines of a config.properties for ports ``port`` to ``port + 4``."""
    return {
        "inference_address": f"http://{LOOPBACK}:{port}",
        "management_address": f"http://{LOOPBACK}:{port + 1}",
        "metrics_address": f"http://{LOOPBACK}:{port + METRICS_OFFSET}",
        "grpc_inference_port": str(port + 3),
        "grpc_management_port": str(port + 4),
    }


def check_socket_folder(folder: Path) -> None:
    """Refuse a folder whose path leaves no room for the names of workers' sockets (ConfigError)."""
    most = SOCKET_PATH - len("/.ts.sock.65535")
    if len(os.fsencode(folder.absolute())) > most:
        raise ConfigError(f"{folder} is too long for the sockets in it ({most} bytes at most): name a shorter --folder")
