"""A worker takes its share of the cores that it may use, and no more threads than OMP_NUM_THREADS says."""

import os

import pytest

from camserve.build.mar.pack import settings_block
from camserve.input_spec import InputSpec
from camserve.serving.cores import count_threads
from camserve.serving.engines.answering import _settings
from camserve.settings import ModelSpec, RuntimeSpec, Settings
from camserve.values import Layer


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("workers", "said", "quota", "threads"),
    [
        (1, None, None, 16),
        (3, None, None, 5),
        (32, None, None, 1),
        (1, "4", None, 4),
        (8, "4", None, 2),
        (1, "4,2", None, 4),
        (1, "", None, 16),
        (1, "0", None, 16),
        (1, "many", None, 16),
        (1, None, "max 100000\n", 16),
        (1, None, "250000 100000\n", 2),
        (2, None, "400000 100000\n", 2),
        (1, None, "50000 100000\n", 1),
        (1, "3", "400000 100000\n", 3),
        (1, None, "other", 16),
    ],
)
def test_threads_are_counted(workers, said, quota, threads, tmp_path, monkeypatch):
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    cpu_max = tmp_path / "cpu.max"
    if quota is not None:
        cpu_max.write_text(quota)
    assert count_threads(workers, cpu_max) == threads


def test_a_worker_asks_for_so_many_and_an_archive_that_names_its_threads_has_them(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = {"camserve": block_of(RuntimeSpec()), "minWorkers": 2}
    assert _settings(config).runtime.threads == 1
    assert _settings({"camserve": block_of(RuntimeSpec(threads=5))}).runtime.threads == 5


def block_of(runtime):
    return settings_block(Settings(ModelSpec("any:factory"), InputSpec(), (Layer("features"),), runtime=runtime))
