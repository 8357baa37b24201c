"""A worker takes its share of the cores that it may use, and no more threads than OMP_NUM_THREADS says."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import camserve
from camserve.build.mar.pack import settings_block
from camserve.bulk import workers as bulk_workers
from camserve.input_spec import InputSpec
from camserve.serving import cores
from camserve.serving.cores import count_cores, count_threads
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
    write_quota(quota, tmp_path, monkeypatch)
    assert count_threads(workers) == threads


def write_quota(quota, folder, monkeypatch):
    """Let a container have a limit, in the words of its cpu.max; None: no such file."""
    monkeypatch.setattr(cores, "CGROUP", folder)
    if quota is not None:
        (folder / "cpu.max").write_text(quota)


@pytest.mark.parametrize(("quota", "threads"), [("250000\n", 2), ("50000\n", 1), ("-1\n", 16)])
def test_a_container_of_an_older_system_has_its_limit_in_two_files(quota, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert count_threads(1) == threads


@pytest.mark.parametrize(
    ("quota", "count"), [("250000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 16), (None, 16)]
)
def test_a_run_starts_as_many_workers_as_its_container_has_cores(quota, count, tmp_path, monkeypatch):
    write_quota(quota, tmp_path, monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # says nothing of workers
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 40))
    assert (count_cores(), bulk_workers.count_workers(settings_of(RuntimeSpec()))) == (count, count)


def test_cores_are_counted_in_one_place():
    """Ray, configure and runs over many pictures took all cores of a machine for those of their container."""
    package = Path(camserve.__file__).parent
    counting = re.compile("sched_getaffinity|process_cpu_count")
    assert [path.name for path in package.rglob("*.py") if counting.search(path.read_text())] == ["cores.py"]


def test_a_worker_asks_for_so_many_and_an_archive_that_names_its_threads_has_them(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = {"camserve": block_of(RuntimeSpec()), "minWorkers": 2}
    assert _settings(config).runtime.threads == 1
    assert _settings({"camserve": block_of(RuntimeSpec(threads=5))}).runtime.threads == 5


def settings_of(runtime):
    return Settings(ModelSpec("any:factory"), InputSpec(), (Layer("features"),), runtime=runtime)


def block_of(runtime):
    return settings_block(settings_of(runtime))
