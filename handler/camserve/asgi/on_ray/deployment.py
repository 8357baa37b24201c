"""How an archive becomes a deployment of Ray Serve."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from camserve.asgi.batches import BatchRules, may_use_gpu
from camserve.asgi.gather import Gatherer
from camserve.asgi.on_ray.replica import Replica, ReplicaPlan
from camserve.build.mar.unpack import Contents
from camserve.errors import ConfigError
from camserve.operate.ray_here import share
from camserve.operate.unpack_once import unpack_once

HEALTH_SECONDS = 2  # between two looks at a replica; three in vain, and another is started
GROW_SECONDS, SHRINK_SECONDS = 5, 300  # of more, or less, traffic before the number of replicas changes
SCHEDULE_SECONDS = 120  # before what waits for cores or a GPU counts as without room: a process may begin slowly
LOAD_SECONDS = 600
SECONDS_BETWEEN_LOOKS = 0.2
KINDS = {"CPU": "num_cpus", "GPU": "num_gpus"}  # Ray's names of what there is, and of what is asked for
DURING_A_CHANGE = 2  # the replicas of the new archive start beside those of the old one


def bind(name: str, place: str, contents: Contents, rules: BatchRules, resources: Mapping[str, float]) -> Any:
    """Return an archive as a deployment with its arguments; ``place`` is the archive or the folder of its files."""
    import ray
    from ray import serve

    gpu = 0 if may_use_gpu(contents.config) else None  # a replica sees its own alone
    known = (contents.config, contents.name, contents.version)
    plan = ReplicaPlan(place, *known, rules.size, rules.delay, rules.timeout, gpu)
    for part in (Replica, Gatherer, unpack_once):
        ray.cloudpickle.register_pickle_by_value(sys.modules[part.__module__])
    return serve.deployment(Replica, name=name, **make_options(contents.config, rules, resources)).bind(plan)


def make_options(config: Mapping[str, Any], rules: BatchRules, resources: Mapping[str, float]) -> dict[str, Any]:
    """Return the options of a deployment, in which an archive's keys mean what they mean to TorchServe.

    More ``maxWorkers`` than ``minWorkers`` let Ray Serve choose a number between them.
    """
    least, most = count_replicas(config)
    number: dict[str, Any] = {"num_replicas": least}
    if most > least:
        grow = {"upscale_delay_s": GROW_SECONDS, "downscale_delay_s": SHRINK_SECONDS}
        scale = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": rules.size, **grow}
        number = {"autoscaling_config": scale}
    return {
        **number,
        "ray_actor_options": dict(resources),
        "max_ongoing_requests": 2 * rules.size,  # one batch is gathered while another is answered
        "max_queued_requests": rules.waiting,
        "health_check_period_s": HEALTH_SECONDS,
        "max_constructor_retry_count": 1,
        "logging_config": {"log_level": "ERROR", "enable_access_log": False},
    }


def count_replicas(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least and the most replicas of an archive."""
    least = max(1, int(config.get("minWorkers", 1)))
    return least, max(least, int(config.get("maxWorkers", least)))


@dataclass(frozen=True)
class Replicas:
    """The replicas of one archive, and what each asks of Ray."""

    workers: int
    resources: Mapping[str, float]


class ReplicaRequest(NamedTuple):
    """The replicas that an archive may have."""

    workers: int
    on_gpu: bool  # where there is one


def read_request(config: Mapping[str, Any]) -> ReplicaRequest:
    """Return the replicas that a model-config.yaml asks for at most."""
    return ReplicaRequest(count_replicas(config)[1], may_use_gpu(config))


def divide_machine(
    have: Mapping[str, float], wanted: ReplicaRequest, others: Iterable[ReplicaRequest], running: Collection[Replicas]
) -> Replicas:
    """Return an archive's replicas beside those of others on what a Ray has; they fit beside those that run.

    So that every archive finds room for a change, all together take a part of the machine.
    """
    resources, everyone = {}, [wanted, *others]
    for kind, name in KINDS.items():
        sharing = [one for one in everyone if one.on_gpu or kind != "GPU"]
        if wanted not in sharing:
            resources[name] = 0.0
            continue
        free = have.get(kind, 0.0) - sum(replicas.workers * replicas.resources[name] for replicas in running)
        usual = share(have.get(kind, 0.0), DURING_A_CHANGE * sum(one.workers for one in sharing))
        resources[name] = min(usual, share(max(0.0, free), wanted.workers))
    return Replicas(wanted.workers, resources)


def on_device(config: Mapping[str, Any], resources: Mapping[str, float]) -> dict[str, float]:
    """Return what a replica asks of Ray: no GPU where the archive's deviceType is cpu."""
    return {**resources, **({} if may_use_gpu(config) else {"num_gpus": 0.0})}


def describe_replicas(replicas: Replicas, have: Mapping[str, float]) -> str:
    """Return what replicas ask for and what a Ray has, in words."""
    requested = {kind: replicas.resources[name] for kind, name in KINDS.items() if replicas.resources[name]}
    amounts = " and ".join(f"{amount:g} {kind}" for kind, amount in requested.items()) or "nothing"
    there = " and ".join(f"{have.get(kind, 0.0):g} {kind}" for kind in requested or KINDS)
    return f"{replicas.workers} x {amounts} is asked for, and Ray has {there}"


def lacks_room(message: str) -> bool:
    """Return whether the message of a deployment says that replicas wait for cores or a GPU."""
    return "to be scheduled" in message  # Ray's words after 30 s


def wait_for_start(application: str, replicas: Replicas, is_over: threading.Event) -> None:
    """Return when an application's replicas run.

    ConfigError: one does not load, there is no room for them, they take too long, or ``is_over`` is set.
    """
    import ray
    from ray import serve

    begun = time.monotonic()
    while (found := serve.status().applications[application]).status != "RUNNING":
        text = "\n".join(deployment.message for deployment in found.deployments.values())
        seconds = time.monotonic() - begun
        if found.status == "DEPLOY_FAILED":
            raise ConfigError(_find_reason(text))
        if seconds > SCHEDULE_SECONDS and lacks_room(text):
            room = describe_replicas(replicas, ray.cluster_resources())
            raise ConfigError(f"no room for its workers after {SCHEDULE_SECONDS} s: {room}: give it fewer minWorkers")
        if seconds > LOAD_SECONDS:
            raise ConfigError(f"{replicas.workers} workers are not ready after {LOAD_SECONDS} s")
        if is_over.wait(SECONDS_BETWEEN_LOOKS):
            raise ConfigError("the server ends")


def _find_reason(text: str) -> str:
    """Return the line in which a replica said why it could not load."""
    if "No module named 'camserve." in text:
        return "its code is older than this engine: build it again"
    named = re.findall(r"^\S*(?:Error|Exception): (.+)", text, re.MULTILINE)
    return named[-1] if named else " ".join(text.split())[-300:]
