"""Ray on this machine for as long as a block runs, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from camserve.errors import ConfigError, first_line

OBJECT_STORE_BYTES = 256 << 20
ADDRESS = "RAY_ADDRESS"  # Ray's own variable
PARTS = 10_000  # Ray divides a core or a GPU no further
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray listens on loopback where there can be no second machine
    "RAY_AUTH_MODE": "token",  # a replica's port listens on every address whatever else is said
}


def share(count: float, workers: int) -> float:
    """Return what each of ``workers`` may ask of ``count`` cores or GPUs: whole ones, or a part of one."""
    return count // workers if count >= workers else int(PARTS * count / workers) / PARTS


@contextmanager
def own_ray(cores: int, **options: Any) -> Iterator[None]:
    """Run Ray on this machine alone, and end it. ConfigError: Ray is not installed."""
    before, known = dict(os.environ), tempfile.tempdir
    try:
        with _own_ray(cores, **options):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = known


@contextmanager
def _own_ray(cores: int, **options: Any) -> Iterator[None]:
    # Ray reads them when it is imported.
    os.environ.update(SETTINGS, RAY_AUTH_TOKEN=secrets.token_urlsafe(32))
    # The paths of Ray's sockets have room for a short one alone.
    with tempfile.TemporaryDirectory(prefix="camserve-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = folder  # of Ray's processes, most of which are killed in the end
        here = {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        with _connected(address="local", _temp_dir=folder, **here, **options):
            yield


@contextmanager
def any_ray(cores: int, **options: Any) -> Iterator[None]:
    """Use the cluster that RAY_ADDRESS names, or Ray on this machine alone. ConfigError: neither can be had."""
    address = os.environ.get(ADDRESS)
    if not address:
        with own_ray(cores, **options):
            yield
        return
    with _connected(address=address, **options):
        yield


@contextmanager
def _connected(**options: Any) -> Iterator[None]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--engine ray needs {error.name}: pip install 'camserve[ray]'") from None

    before = signal.signal(signal.SIGTERM, _leave)
    try:
        try:
            ray.init(logging_level="error", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"Ray at {options['address']} does not answer: {first_line(error)}") from None
        signal.signal(signal.SIGTERM, _leave)  # Ray sets its own, which aborts
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _frame: object) -> None:
    """End this process with all that it has begun."""
    raise SystemExit(128 + number)
