"""TorchServe's own keys of a model-config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camserve.errors import ConfigError, quote

# What is counted, and the least that works.
LEAST = {
    **{"minWorkers": 0, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 1, "responseTimeout": 1},
    **{"startupTimeout": 1, "jobQueueSize": 1, "maxRetryTimeoutInSec": 0, "clientTimeoutInMills": 0},
}
SERVER_KEYS = (*LEAST, "deviceType", "deviceIds")  # that a person sets


def check_server_keys(server: Mapping[str, Any]) -> None:
    """Refuse what TorchServe would pass over in silence, or a worker would not load with. ConfigError."""
    for key, least in LEAST.items():
        value = server.get(key, least)
        if type(value) is not int or value < least:
            raise ConfigError(f"serving.{key} must be a whole number from {least}, not {quote(value)}")
    if server["minWorkers"] > server["maxWorkers"]:
        raise ConfigError(f"serving.minWorkers {server['minWorkers']} is above maxWorkers {server['maxWorkers']}")
    if server.get("asyncCommunication"):
        raise ConfigError(
            "serving.asyncCommunication: true hands over one request at a time, and no worker loads with it: leave it "
            "out; batchSize answers many at once"
        )
