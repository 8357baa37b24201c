"""The benchmarks of a person's own archive, on real TorchServes."""

import pytest

from camserve.bench.batching import BatchingSetting, measure_batching, write_best
from camserve.bench.contenders import NAIVE, RUNTIMES, STOCK, Parts, build_archives
from camserve.bench.profile import NETWORK, STEPS, measure_profiles
from camserve.build.mar.unpack import read_contents

pytestmark = pytest.mark.server
SECONDS = 1.0


def test_a_profile_charges_every_step_of_a_served_answer(imagenet):
    (turns,) = measure_profiles([imagenet], 1, SECONDS, lambda _: None).values()
    (turn,) = turns
    assert set(turn.steps) <= set(STEPS)
    for step in ("receive", "protocol", "rows", "decode", "preprocess", NETWORK, "explain", "JSON", "encode", "send"):
        assert turn.steps[step] > 0, step
    assert turn.frontend > 0
    assert turn.steps["decode"] > turn.steps["JSON"]
    assert 0 < turn.outside < turn.worker


def test_a_setting_is_measured_and_the_best_written(imagenet, tmp_path):
    archive = tmp_path / "imagenet.mar"
    archive.write_bytes(imagenet.read_bytes())
    settings = [BatchingSetting(2, 5, 1, 1), BatchingSetting(4, 5, 2, 1)]
    points = measure_batching(archive, settings, (1, 4), SECONDS, lambda _: None)
    assert [(point.setting, point.connections) for point in points] == [
        (setting, connections) for setting in settings for connections in (1, 4)
    ]
    assert all(point.throughput > 0 and point.p99 > 0 for point in points)
    said = []
    write_best(archive, points[-1:], said.append)
    config = read_contents(archive).config
    assert [config[key] for key in ("batchSize", "minWorkers", "maxWorkers")] == [4, 2, 2]
    assert "batchSize: 8 -> 4" in said[-1]


def test_every_archive_of_the_benchmark_of_servers_is_built(tmp_path):
    said = []
    archives = build_archives(Parts("resnet18", tmp_path / "store", {"batchSize": 2}), said.append)
    assert said == []  # none is left out
    assert set(archives) == {STOCK, NAIVE, *RUNTIMES}
    for name, runtime in RUNTIMES.items():
        assert read_contents(archives[name]).settings.runtime == runtime
