"""Real photos, archives that are built once a run, and how the files of tests share processes.

What needs torch is imported where it is used: the process that only hands out tests starts without it.
"""

import gc
import os
import signal
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: every process of a run has one core

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from scheduling import FilesBySharing, by_length

RECIPE = Path(__file__).parents[1] / "config" / "models" / "imagenet.yaml"
SERVERS = Path(__file__).parent / "server"
HANDLER = str(Path(__file__).parents[1] / "handler")


def pytest_configure():
    """Take the usual signals: a background job starts with them ignored, and so would every command in the tests."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let one process run all files that share what takes long to start."""
    return FilesBySharing(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_ignore_collect(collection_path, config):
    """Leave the folder of live servers unread where none of its tests is wanted: its imports take seconds."""
    return True if collection_path == SERVERS and config.option.markexpr == "not server" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Import without the garbage collector, which would visit a million objects again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)  # a run of tests makes millions of objects, and few that refer to themselves
        gc.enable()


def pytest_collection_modifyitems(items):
    """Count what needs the shipped archive to the live tests: it takes longer to build than a server to start."""
    for item in items:
        if "imagenet" in item.fixturenames:
            item.add_marker("server")
    items.sort(key=by_length)


@pytest.fixture(autouse=True)
def same_start():
    """One thread of torch, full precision and the same random numbers for every test, unless it sets others itself."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # which changes more than rounding: maps are compared to 1e-5


@pytest.fixture(autouse=True)
def installed_code():
    """Take unpacked archives off the path: a process that is started later would run the copy of camserve in them."""
    yield
    sys.path[:] = [entry for entry in sys.path if entry == HANDLER or not Path(entry, "camserve").is_dir()]


@pytest.fixture(scope="session")
def build_once(tmp_path_factory) -> Callable[[str, Callable[[Path], Path]], Path]:
    """Build something in a folder that every process of the run shares: the first one builds, the others wait."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def build_once(name, build):
        folder, built = shared / name, shared / f"{name}.built"
        with FileLock(shared / f"{name}.lock"):
            if not built.exists():
                folder.mkdir()
                built.write_text(str(build(folder)))
        return Path(built.read_text())

    return build_once


def photo(name):
    from camserve.build.locate import find_file

    return find_file(f"package://skimage/data/{name}.png").read_bytes()


@pytest.fixture
def one_process(monkeypatch):
    """Leave the packed archive's own process out of a build: tests/build/test_archive.py tests it, and it takes 5 s."""
    monkeypatch.setattr("camserve.build.archive.replay", lambda *_, **__: None)


@pytest.fixture(scope="session")
def coffee():
    return photo("coffee")


@pytest.fixture(scope="session")
def chelsea():
    return photo("chelsea")


@pytest.fixture(scope="session")
def imagenet(build_once):
    """The shipped archive; that it loads in a process of its own is for the live servers to find."""
    from camserve.build.archive import build_archive
    from camserve.build.recipe import load_recipe

    def build(folder):
        return build_archive(load_recipe(RECIPE), folder, lambda line: None, fresh_process=False)

    return build_once("imagenet", build)


@pytest.fixture(scope="session")
def pets(build_once):
    """An archive of three classes."""
    from camserve.build.archive import build_archive
    from camserve.build.recipe import load_recipe
    from model_file import quiet, write_pets

    def build(folder):
        recipe = write_pets(folder)
        recipe.write_text(recipe.read_text() + "methods: [gradcam, layercam]\n")
        return build_archive(load_recipe(recipe), folder / "store", quiet, fresh_process=False)

    return build_once("pets", build)


@pytest.fixture
def encoded():
    """Encode a plain picture of a given size, mode and format."""

    def encode(width, height, mode="RGB", kind="PNG", color=None, **options):
        buffer = BytesIO()
        Image.new(mode, (width, height), color or 0).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode
