"""What of the replicas of Ray Serve needs no Ray."""

import subprocess
import sys

import pytest

from camserve.asgi.batches import BatchRules
from camserve.asgi.on_ray.deployment import (
    ReplicaRequest,
    Replicas,
    count_replicas,
    describe_replicas,
    divide_machine,
    make_options,
    on_device,
)
from camserve.asgi.on_ray.replica import ReplicaSink
from camserve.operate.ray_here import share

WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from camserve.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.server
def test_without_ray_one_line_says_what_to_install(pets):
    command = [sys.executable, "-c", WITHOUT_RAY, "serve", str(pets), "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "camserve: --engine ray needs ray: pip install 'camserve[ray]'"


def test_all_workers_find_room_whatever_there_is_of_cores_and_gpus():
    assert [share(8, 3), share(2, 2), share(1, 3), share(0, 2)] == [2, 1, 0.3333, 0]
    assert all(share(count, workers) * workers <= count for count in range(9) for workers in range(1, 9))


ONE = ReplicaRequest(1, True)


def test_a_changed_archive_with_more_workers_gets_what_is_free_beside_the_old_one():
    have = {"CPU": 4.0, "GPU": 1.0}
    before = divide_machine(have, ONE, [], [])
    assert before == Replicas(1, {"num_cpus": 2.0, "num_gpus": 0.5})
    assert divide_machine(have, ReplicaRequest(4, True), [], [before]) == Replicas(
        4, {"num_cpus": 0.5, "num_gpus": 0.125}
    )
    both = [divide_machine(have, ONE, [ONE], []), divide_machine(have, ONE, [ONE], [])]
    four = divide_machine(have, ReplicaRequest(4, True), [ONE], both)
    assert sum(one.workers * one.resources["num_cpus"] for one in (four, *both)) <= 4
    assert four.resources["num_gpus"] > 0
    assert divide_machine(have, ONE, [], [Replicas(4, four.resources)]) == before


def test_an_archive_of_the_cpu_takes_no_share_of_a_gpu_from_others():
    have, on_cpu = {"CPU": 8.0, "GPU": 1.0}, ReplicaRequest(3, False)
    assert divide_machine(have, ONE, [on_cpu], []) == Replicas(1, {"num_cpus": 1.0, "num_gpus": 0.5})
    assert divide_machine(have, on_cpu, [ONE], []) == Replicas(3, {"num_cpus": 1.0, "num_gpus": 0.0})
    assert divide_machine(have, ONE, [ONE, on_cpu], []).resources["num_gpus"] == 0.25


def test_an_archive_of_the_cpu_asks_for_no_gpu():
    usual = {"num_cpus": 1.0, "num_gpus": 0.5}
    assert on_device({"deviceType": "cpu"}, usual) == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert on_device({"deviceType": "gpu"}, usual) == on_device({}, usual) == usual


def test_what_workers_ask_for_and_what_there_is_are_said_in_words():
    have = {"CPU": 4.0, "GPU": 1.0}
    both = Replicas(2, {"num_cpus": 3.0, "num_gpus": 0.25})
    assert describe_replicas(both, have) == "2 x 3 CPU and 0.25 GPU is asked for, and Ray has 4 CPU and 1 GPU"
    assert (
        describe_replicas(Replicas(1, {"num_cpus": 5.0, "num_gpus": 0.0}), {})
        == "1 x 5 CPU is asked for, and Ray has 0 CPU"
    )


def test_a_tally_adds_amounts_keeps_the_last_value_and_begins_again():
    tally = ReplicaSink()
    tally.count("requests", ["ok"], 0)
    tally.count("requests", ["ok"], 2)
    tally.gauge("seconds", [], 1.0)
    tally.gauge("seconds", [], 3.0)
    assert tally.fetch() == ({("requests", ("ok",)): 2}, {("seconds", ()): 3.0})
    assert tally.fetch() == ({}, {})


def test_the_keys_of_an_archive_say_how_many_replicas_there_are():
    configs = ({}, {"minWorkers": 2}, {"minWorkers": 2, "maxWorkers": 5}, {"minWorkers": 0, "maxWorkers": 1})
    assert [count_replicas(config) for config in configs] == [(1, 1), (2, 2), (2, 5), (1, 1)]
    fixed, growing = (make_options(config, BatchRules(size=8), {"num_cpus": 1}) for config in configs[1:3])
    assert (fixed["num_replicas"], "autoscaling_config" in fixed) == (2, False)
    scale = growing["autoscaling_config"]
    assert (scale["min_replicas"], scale["max_replicas"], scale["target_ongoing_requests"]) == (2, 5, 8)
    assert "num_replicas" not in growing
    assert growing["max_ongoing_requests"] == 16
