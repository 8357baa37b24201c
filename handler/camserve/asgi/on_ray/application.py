"""Archives as an application of Ray Serve for clusters: what a RayService or ``serve deploy`` names.

``camserve.asgi.on_ray.application:build`` takes ``args``; ``:app``, for ``serve build``, takes CAMSERVE_ARCHIVES, a
list with commas. The routes run behind Ray's own HTTP proxies.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from starlette.routing import Router

from camserve.asgi.app import App, Served
from camserve.asgi.batches import BatchRules, read_rules
from camserve.asgi.listen import TOKEN_FILE, most_body_bytes, read_token
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.asgi.on_ray.deployment import Replicas, bind, count_replicas, describe_replicas, on_device
from camserve.asgi.on_ray.model import RayModel
from camserve.asgi.on_ray.replica import Counted
from camserve.build.mar.unpack import check_names, read_contents
from camserve.errors import ConfigError, choose, first_line

ARCHIVES = "CAMSERVE_ARCHIVES"
USUAL = {"archives": [], "token_folder": "/etc/camserve", "num_cpus": 1.0, "num_gpus": 0.0}
ROUTES = {"max_ongoing_requests": 512, "ray_actor_options": {"num_cpus": 0.5}}  # most requests wait for a replica
# Version, how requests are gathered, what replicas ask for, and what Ray makes a handle.
Models = Mapping[str, tuple[str, BatchRules, Replicas, Any]]
INGRESS = "routes"
SECONDS_BETWEEN_LINES = 60.0

logger = logging.getLogger(__name__)


@serve.ingress()
class Routes:
    """The routes, in one process for all models, so that /metrics has every number."""

    async def __init__(self, models: Models, token_folder: str) -> None:  # type: ignore[misc] # Ray awaits it
        """Answer for ``models``, each as soon as a replica of it runs. ConfigError: the folder holds no token."""
        self._token = read_token(Path(token_folder) / TOKEN_FILE)
        self._metrics = Metrics()
        self._models = {}
        self._first_counts = []  # which nobody else refers to
        application = serve.get_replica_context().app_name
        for name, (version, gather, replicas, handle) in models.items():
            model = RayModel(application, name, handle, gather, ModelSink(self._metrics, name, version))
            self._first_counts.append(asyncio.ensure_future(count_first(name, replicas, handle, model)))
            self._models[name] = Served(version, model)

    def __serve_build_asgi_app__(self) -> Router:  # Ray's name
        """Return the application."""
        return App(self._models, self._token, most_body_bytes(), self._metrics).asgi()


async def count_first(name: str, replicas: Replicas, handle: Any, model: RayModel) -> None:
    """Let every series of a model begin at 0, once a replica runs; until then a line a minute says what is wanting.

    One that never runs is no end of the others.
    """
    while True:
        counted = asyncio.ensure_future(_ask_count(handle))
        try:
            while not (await asyncio.wait([counted], timeout=SECONDS_BETWEEN_LINES))[0]:
                logger.warning("camserve: no worker of %s runs yet%s", name, _advise(replicas, model))
            model.count(counted.result())
            return
        except (RayError, RayServeException) as error:
            logger.error("camserve: no worker of %s runs: %s", name, first_line(error))
        finally:
            counted.cancel()
        await asyncio.sleep(SECONDS_BETWEEN_LINES)


def _advise(replicas: Replicas, model: RayModel) -> str:
    if not model.waits_for_room:
        return ""
    return f": {describe_replicas(replicas, ray.cluster_resources())}: add machines, or set num_cpus in args"


async def _ask_count(handle: Any) -> Counted:
    counted: Counted = await handle.counted.remote()
    return counted


def build(args: Mapping[str, Any]) -> Any:
    """Return an application from ``args``: archives, token_folder, num_cpus and num_gpus of a replica.

    ConfigError: an argument is unknown, or an archive cannot be read.
    """
    for name in args:
        choose(USUAL, name, "args")
    given = {**USUAL, **args}
    resources = {name: _amount(name, given[name]) for name in ("num_cpus", "num_gpus")}
    models = {}
    for path in check_names(_paths(given["archives"]), print):
        contents = read_contents(path)
        rules = read_rules(contents.config)
        replicas = Replicas(count_replicas(contents.config)[0], on_device(contents.config, resources))
        bound = bind(path.stem, str(path), contents, rules, replicas.resources)
        models[path.stem] = (contents.version, rules, replicas, bound)
    return serve.deployment(Routes, name=INGRESS, **ROUTES).bind(models, str(given["token_folder"]))


def _paths(named: object) -> list[Path]:
    if not named:
        raise ConfigError("args name no archives: archives: [/models/imagenet.mar]")
    if not isinstance(named, (list, tuple)) or not all(isinstance(path, str) for path in named):
        raise ConfigError("args: archives is a list of paths: archives: [/models/imagenet.mar]")
    paths = [Path(path) for path in named]
    if taken := [path for path in paths if path.stem == INGRESS]:
        raise ConfigError(f"{taken[0]}: Ray Serve knows the routes themselves as {INGRESS!r}: rename the file")
    return paths


def _amount(name: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < math.inf:
        raise ConfigError(f"args: {name} is a number of 0 or more: {name}: {USUAL[name]}")
    return float(given)


def __getattr__(name: str) -> Any:
    """Return the application that the environment describes, where ``app`` is asked for."""
    if name != "app":
        raise AttributeError(name)
    return build({"archives": [path for path in os.environ.get(ARCHIVES, "").split(",") if path]})
