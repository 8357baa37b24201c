"""Serving archives by replicas of Ray Serve until a signal comes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from camserve.asgi.app import Served
from camserve.asgi.batches import BatchRules, read_rules
from camserve.asgi.listen import listen
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.asgi.on_ray.cluster import own_serve
from camserve.asgi.on_ray.replica import Replica, ReplicaPlan
from camserve.build.mar.unpack import Contents, read_contents, unpacked
from camserve.errors import ConfigError
from camserve.operate.ray_here import share
from camserve.values import Progress

HEALTH_SECONDS = 2  # between two looks at a replica; three in vain, and another is started


def serve(archives: Sequence[Path], port: int, folder: Path, report: Progress) -> int:
    """Serve on loopback until a signal comes; return the exit status. ConfigError: an archive does not load."""
    workers = sum(_workers(read_contents(path).config) for path in archives)
    cores = len(os.sched_getaffinity(0))
    metrics = Metrics()
    with ExitStack() as stack:
        report("starting Ray")
        stack.enter_context(own_serve(cores))
        models = {path.stem: _deploy(path, metrics, workers, stack, report) for path in archives}
        listen(models, metrics, port, folder, report)
    return 0


def _deploy(path: Path, metrics: Metrics, workers: int, stack: ExitStack, report: Progress) -> Served:
    import ray
    from ray import serve

    from camserve.asgi.on_ray.model import RayModel

    report(f"loading {path.name}")
    contents, folder = stack.enter_context(unpacked(path))
    rules = read_rules(contents.config)
    plan = ReplicaPlan(
        str(folder), contents.config, contents.name, contents.version, rules.size, rules.delay, rules.timeout
    )
    ray.cloudpickle.register_pickle_by_value(sys.modules[Replica.__module__])
    deployment = serve.deployment(Replica, name="replica", **_options(contents, rules, workers))
    try:
        handle = serve.run(deployment.bind(plan), name=path.stem, route_prefix=None)
    except RuntimeError:
        raise ConfigError(f"{path} does not load: {_reason(path.stem)}") from None
    model = RayModel(path.stem, handle, rules, ModelSink(metrics, path.stem, contents.version))
    model.count(handle.counted.remote().result())
    return Served(contents.version, model)


def _options(contents: Contents, rules: BatchRules, workers: int) -> dict[str, Any]:
    """Return the options of a deployment, in which an archive's keys mean what they mean to TorchServe."""
    import ray

    have = ray.cluster_resources()
    return {
        "num_replicas": _workers(contents.config),
        "ray_actor_options": {f"num_{kind.lower()}s": share(have.get(kind, 0), workers) for kind in ("CPU", "GPU")},
        "max_ongoing_requests": 2 * rules.size,  # one batch is gathered while another is answered
        "max_queued_requests": rules.waiting,
        "health_check_period_s": HEALTH_SECONDS,
        "max_constructor_retry_count": 1,
        "logging_config": {"log_level": "ERROR", "enable_access_log": False},
    }


def _workers(config: Mapping[str, Any]) -> int:
    return int(config.get("minWorkers", 1))


def _reason(application: str) -> str:
    """Return the line in which a replica said why it could not load."""
    from ray import serve

    deployments = serve.status().applications[application].deployments.values()
    text = "\n".join(deployment.message for deployment in deployments)
    if "No module named 'camserve." in text:
        return "its code is older than this engine: build it again"
    named = re.findall(r"^\S*(?:Error|Exception): (.+)", text, re.MULTILINE)
    return named[-1] if named else " ".join(text.split())[-300:]
