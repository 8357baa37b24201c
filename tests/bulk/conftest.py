"""Folders of photos, and runs over them."""

import shutil
from pathlib import Path

import pytest

from camserve.bulk.reading import read_ahead
from camserve.bulk.shards import write_shard
from camserve.bulk.workers import load_asker
from many_photos import explain, write_photo

RUN_WORKERS = "camserve.bulk.workers.run_workers"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Work beside a folder ``photos`` of six pictures, two of them called a, and a broken one."""
    monkeypatch.chdir(tmp_path)
    return write_photos(tmp_path / "photos")


def write_photos(folder):
    names = ("a.png", "a.jpg", "sub/a.jpg", "sub/b.png", "c.png")
    for seed, name in enumerate(names):
        write_photo(folder / name, seed)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def run_workers_here(shards, work, _workers, _report):
    """Write shards in this process, which has torch already: other tests hold what the workers' own are for."""
    ask = load_asker(work.folder, work.contents, work.options, work.threads)
    for shard in shards:
        yield write_shard(shard, ask(read_ahead(shard.photos, work.most_bytes)), work.grid)


@pytest.fixture
def workers_here(monkeypatch):
    monkeypatch.setattr(RUN_WORKERS, run_workers_here)


@pytest.fixture(scope="session")
def finished_runs(pets, tmp_path_factory):
    """A folder with the same run as a journal and as shards of two pictures."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--target", "cat,dog", "--evidence", "signed", "--method", "gradcam,layercam"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(RUN_WORKERS, run_workers_here)
        write_photos(folder / "photos")
        for out, save in (("journal", ["csv"]), ("shards", ["parquet", "--shard-size", "2", "--workers", "1"])):
            assert explain(pets, "photos", "absent.png", "--out", out, "--save", *save, *options) == 1
    return folder


@pytest.fixture
def runs(finished_runs, photos):
    """Both runs, for one test to change."""
    for name in ("journal", "shards"):
        shutil.copytree(finished_runs / name, name)
    return Path("journal"), Path("shards")
