"""A Ray of one's own on this machine, for as long as a block runs."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from camserve.errors import ConfigError

OBJECT_STORE_BYTES = 256 << 20
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray listens on loopback where there can be no second machine
    "RAY_AUTH_MODE": "token",  # a replica's port listens on every address whatever else is said
}


@contextmanager
def own_ray(cores: int) -> Iterator[None]:
    """Run Ray and Ray Serve without its proxies, and end both. ConfigError: Ray is not installed."""
    # Ray reads them when it is imported.
    os.environ.update(SETTINGS, RAY_AUTH_TOKEN=secrets.token_urlsafe(32))
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise ConfigError(f"--engine ray needs {error.name}: pip install 'camserve[ray]'") from None

    # The paths of Ray's sockets have room for a short one alone.
    with tempfile.TemporaryDirectory(prefix="camserve-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        signal.signal(signal.SIGTERM, _leave)
        ray.init(
            address="local",
            num_cpus=cores,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level="error",
            _temp_dir=folder,
        )
        signal.signal(signal.SIGTERM, _leave)  # Ray sets its own, which aborts
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(proxy_location="Disabled", logging_config={"log_level": "CRITICAL"})
            yield
        finally:
            ray.shutdown()


def _leave(number: int, _frame: object) -> None:
    """End this process with all that it has begun."""
    raise SystemExit(128 + number)
