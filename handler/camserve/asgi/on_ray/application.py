"""Archives as an application of Ray Serve for clusters: what a RayService or ``serve deploy`` names.

``camserve.asgi.on_ray.application:build`` takes ``args``; ``:app``, for ``serve build``, takes CAMSERVE_ARCHIVES, a
list with commas. The routes run behind Ray's own HTTP proxies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from starlette.routing import Router

from camserve.asgi.app import App, Served
from camserve.asgi.batches import BatchRules, read_rules
from camserve.asgi.listen import TOKEN_FILE, most_body_bytes, read_token
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.asgi.on_ray.deployment import bind
from camserve.asgi.on_ray.model import RayModel
from camserve.build.mar.unpack import check_names, read_contents
from camserve.errors import ConfigError, choose

ARCHIVES = "CAMSERVE_ARCHIVES"
USUAL = {"archives": [], "token_folder": "/etc/camserve", "num_cpus": 1.0, "num_gpus": 0.0}
ROUTES = {"max_ongoing_requests": 512, "ray_actor_options": {"num_cpus": 0.5}}  # most requests wait for a replica
Rules = Mapping[str, tuple[str, BatchRules]]  # of each model: its version, and how requests are gathered


@serve.ingress()
class Routes:
    """The routes, in one process for all models, so that /metrics has every number."""

    async def __init__(self, rules: Rules, token_folder: str, *handles: Any) -> None:  # type: ignore[misc] # Ray awaits it
        """Answer by ``handles``, in the order of ``rules``. ConfigError: the folder holds no token."""
        self._token = read_token(Path(token_folder) / TOKEN_FILE)
        self._metrics = Metrics()
        self._models = {}
        application = serve.get_replica_context().app_name
        for (name, (version, gather)), handle in zip(rules.items(), handles):
            model = RayModel(application, name, handle, gather, ModelSink(self._metrics, name, version))
            model.count(await handle.counted.remote())  # every series at 0
            self._models[name] = Served(version, model)

    def __serve_build_asgi_app__(self) -> Router:  # Ray's name
        """Return the application."""
        return App(self._models, self._token, most_body_bytes(), self._metrics).asgi()


def build(args: Mapping[str, Any]) -> Any:
    """Return an application from ``args``: archives, token_folder, num_cpus and num_gpus of a replica.

    ConfigError: an argument is unknown, or an archive cannot be read.
    """
    for name in args:
        choose(USUAL, name, "args")
    given = {**USUAL, **args}
    paths = [Path(path) for path in given["archives"]]
    if not paths:
        raise ConfigError("args name no archives: archives: [/models/imagenet.mar]")
    check_names(paths, print)
    rules, deployments = {}, []
    for path in paths:
        contents = read_contents(path)
        rules[path.stem] = (contents.version, read_rules(contents.config))
        resources = {name: float(given[name]) for name in ("num_cpus", "num_gpus")}
        deployments.append(bind(path.stem, str(path), contents, rules[path.stem][1], resources))
    routes = serve.deployment(Routes, name="routes", **ROUTES)
    return routes.bind(rules, str(given["token_folder"]), *deployments)


def __getattr__(name: str) -> Any:
    """Return the application that the environment describes, where ``app`` is asked for."""
    if name != "app":
        raise AttributeError(name)
    return build({"archives": [path for path in os.environ.get(ARCHIVES, "").split(",") if path]})
