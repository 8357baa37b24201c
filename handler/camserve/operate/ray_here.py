"""Ray on this machine for as long as a block runs, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from typing import IO, Any

from camserve.errors import ConfigError, describe_silence, first_line
from camserve.operate.guardian import LastWord

OBJECT_STORE_BYTES = 256 << 20
ADDRESS = "RAY_ADDRESS"  # Ray's own variable
HERE = "local"  # the address that begins a Ray of one's own
CONNECT_SECONDS = 5
PARTS = 10_000  # Ray divides a core or a GPU no further
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray listens on loopback where there can be no second machine
    "RAY_AUTH_MODE": "token",  # a replica's port listens on every address whatever else is said
}
CLUSTER_SETTINGS = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # of 40 s each
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
LOST = (
    "camserve: this process was ended without a word; Ray does so where its cluster is lost: look at {}; what was "
    "answered is kept, and the same command goes on"
)


def share(count: float, workers: int) -> float:
    """Return what each of ``workers`` may ask of ``count`` cores or GPUs: whole ones, or a part of one."""
    return count // workers if count >= workers else int(PARTS * count / workers) / PARTS


def cluster_address() -> str | None:
    """Return the address of the cluster that RAY_ADDRESS names, or None."""
    address = os.environ.get(ADDRESS)
    return None if address == HERE else address or None


def find_silence(address: str) -> str | None:
    """Return why nothing answers at the address of a cluster, or None where something does."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return None  # auto, or what Ray itself refuses
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return describe_silence(address, error)
    return None


@contextmanager
def own_ray(cores: int, **options: Any) -> Iterator[None]:
    """Run Ray on this machine alone, and end it. ConfigError: Ray is not installed."""
    with _environment_kept():
        # Ray reads them when it is imported.
        os.environ.update(SETTINGS, RAY_AUTH_TOKEN=secrets.token_urlsafe(32))
        os.environ.pop(ADDRESS, None)  # for Ray's own processes
        # The paths of Ray's sockets have room for a short one alone.
        with tempfile.TemporaryDirectory(prefix="camserve-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            os.environ["TMPDIR"] = folder  # of Ray's processes, most of which are killed in the end
            here = {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
            with _connected(address=HERE, _temp_dir=folder, **here, **options):
                yield


@contextmanager
def any_ray(cores: int, **options: Any) -> Iterator[None]:
    """Use the cluster that RAY_ADDRESS names, or Ray on this machine alone. ConfigError: neither can be had.

    A cluster's own lines are not shown.
    """
    address = cluster_address()
    if address is None:
        with own_ray(cores, **options):
            yield
        return
    if (silence := find_silence(address)) is not None:
        raise ConfigError(f"{ADDRESS}: {silence}; without {ADDRESS} this machine does the work")
    with _environment_kept(), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        os.environ.update({**CLUSTER_SETTINGS, **os.environ})
        with _connected(address=address, **options), closing(LastWord(LOST.format(address))):
            yield


@contextmanager
def _environment_kept() -> Iterator[None]:
    before, known = dict(os.environ), tempfile.tempdir
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = known


@contextmanager
def _connected(**options: Any) -> Iterator[None]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--engine ray needs {error.name}: pip install 'camserve[ray]'") from None

    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with _diverted() as said:
            try:
                ray.init(logging_level="error", **options)
            except Exception as error:
                raise ConfigError(_explain(options["address"], error, _read(said))) from None
        signal.signal(signal.SIGTERM, _leave)  # Ray sets its own, which aborts
        yield
    finally:
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        try:
            ray.shutdown()
        finally:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _diverted() -> Iterator[IO[bytes]]:
    """Yield a file that gets what this process writes to standard error, as Ray's libraries do on their way."""
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _read(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")


def _explain(address: str, error: Exception, said: str) -> str:
    """Return one line that says why Ray is not to be had; ``said`` is what it wrote."""
    if address == HERE:
        return f"Ray does not start here: {first_line(error)}"
    text = f"{error}\n{error.__cause__}\n{said}"
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)
    if len(versions) >= 2:
        (ray, python), (own_ray, own_python) = versions[:2]
        return (
            f"the cluster at {address} has Ray {ray} and Python {python}, and this command Ray {own_ray} and Python "
            f"{own_python}: run it with the cluster's"
        )
    if "InvalidAuthToken" in text:
        return f"the cluster at {address} wants its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    if "TimedOut" in text:
        return f"what listens at {address} does not answer as Ray does: is it the port that ray start --head names?"
    return f"Ray at {address} does not answer: {first_line(error)}"


def _leave(number: int, _frame: object) -> None:
    """End this process with all that it has begun."""
    raise SystemExit(128 + number)
