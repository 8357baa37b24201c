"""A small classifier's archive, with and without a baseline over made-up photos, built once a run."""

import csv

import pytest

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import load_recipe
from camserve.cli import main
from camserve.monitor.counters import Counters
from model_file import quiet, write_pets
from monitoring_parts import PHOTOS, collect
from synthetic_photos import photo, write_photos


@pytest.fixture(scope="session")
def folder(build_once):
    """A recipe, 500 photos and their labels."""

    def build(folder):
        recipe = write_pets(folder)
        lines = recipe.read_text().splitlines(keepends=True)
        recipe.write_text("".join(line for line in lines if not line.startswith(("samples", "bundle"))))
        write_photos(folder / "photos", PHOTOS)
        with (folder / "truth.csv").open("w", newline="") as opened:
            table = csv.writer(opened)
            table.writerow(["file", "class_index"])
            table.writerows([f"{number:04d}.png", number % 2] for number in range(PHOTOS))
        return folder

    return build_once("monitor", build)


@pytest.fixture(scope="session")
def bare(build_once, folder):
    """The archive without a baseline."""
    return build_once(
        "monitor-bare", lambda out: build_archive(load_recipe(folder / "pets.yaml"), out, quiet, fresh_process=False)
    )


@pytest.fixture(scope="session")
def with_baseline(build_once, folder, bare):
    """The same archive with a baseline over the photos, made by the command."""

    def build(out):
        options = ["--images", str(folder / "photos"), "--labels", str(folder / "truth.csv"), "--date", "2026-01-01"]
        assert main(["baseline", str(bare), *options, "--out", str(out / "pets.mar")]) == 0
        return out / "pets.mar"

    return build_once("monitor-with-baseline", build)


@pytest.fixture(scope="module")
def opened(with_baseline):
    with open_archive(with_baseline) as pipeline:
        yield pipeline


@pytest.fixture
def pipeline(opened):
    """The archive with its baseline, loaded once for a file; nobody records at the beginning of a test."""
    opened.monitor.report_to()
    return opened


@pytest.fixture(scope="module")
def baseline(opened):
    return opened.monitor.baseline


@pytest.fixture(scope="module")
def batches(opened):
    """The signals of 120 other photos, in batches of 8."""
    return collect(opened, [photo(2000 + number) for number in range(120)])


@pytest.fixture(scope="module")
def clear_photo(batches):
    """A photo whose map holds evidence."""
    blank = [blank for batch in batches for blank in batch.signal_inputs.blank]
    return photo(2000 + blank.index(False))


@pytest.fixture
def counting():
    """Start counters and stop their threads in the end."""
    started = []

    def start(sink, baseline=None):
        started.append(Counters(sink, baseline))
        return started[-1]

    yield start
    for counters in started:
        counters.close()
