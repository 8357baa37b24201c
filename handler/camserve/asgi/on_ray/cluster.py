"""Ray Serve on a Ray of one's own, for as long as a block runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from camserve.errors import ConfigError
from camserve.operate.ray_here import own_ray


@contextmanager
def own_serve(cores: int) -> Iterator[None]:
    """Run Ray and Ray Serve without its proxies, and end both. ConfigError: Ray is not installed."""
    with own_ray(cores):
        try:
            from ray import serve
        except ImportError as error:
            raise ConfigError(f"--engine ray needs {error.name}: pip install 'camserve[ray]'") from None

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "CRITICAL"})
        yield
