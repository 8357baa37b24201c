"""Labels, settings, self-test and baseline of an archive are those that it was built with, or it does not load."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from camserve.build.archive import build_archive
from camserve.build.mar.file import extract_all
from camserve.build.mar.pack import add_baseline
from camserve.build.mar.unpack import open_archive, read_contents
from camserve.build.recipe import load_recipe
from camserve.errors import ConfigError
from camserve.serving.load import load_archive
from camserve.settings import load_settings
from model_file import quiet, write_pets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    built = build_archive(load_recipe(write_pets(folder)), folder / "store", quiet, fresh_process=False)
    with_baseline = folder / "baseline.mar"
    add_baseline(built, with_baseline, b"{}")
    return with_baseline


@pytest.fixture
def unpacked(archive, tmp_path):
    extract_all(archive, tmp_path / "unpacked")
    return tmp_path / "unpacked"


def load(folder):
    """Load as a server does."""
    block = yaml.safe_load((folder / "model-config.yaml").read_text())["camserve"]
    return load_archive(folder, load_settings(block), "pets", "1.0", CPU)


def edit(folder, change):
    config = yaml.safe_load((folder / "model-config.yaml").read_text())
    change(config["camserve"])
    (folder / "model-config.yaml").write_text(yaml.safe_dump(config))


def rotate(path):
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([*others, first]) + "\n")


def not_a_number(path):
    answers = json.loads(path.read_text())
    answers["answers"]["samples/chelsea.png"]["predictions"][0]["score"] = float("nan")
    path.write_text(json.dumps(answers))


FILES = {
    "labels.txt": rotate,
    "selftest.json": not_a_number,
    "samples/chelsea.png": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "baseline.json": lambda path: path.write_text('{"schema": 1}'),
    "seal.json": lambda path: path.write_text(path.read_text().replace("labels", "babels")),
}


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_stops_the_load(unpacked, name):
    FILES[name](unpacked / name)
    with pytest.raises(ConfigError, match=rf"{name}'? was changed since the archive was built: put it back, or build"):
        load(unpacked)


@pytest.mark.parametrize("name", [name for name in FILES if name != "seal.json"])
def test_a_lost_file_stops_the_load(unpacked, name):
    (unpacked / name).unlink()
    with pytest.raises(ConfigError, match=f"'{name}' was lost since the archive was built"):
        load(unpacked)


SETTINGS = {
    "model": lambda block: block["model"].update(source_sha256="f" * 64),
    "input": lambda block: block["input"].update(mean=[0.5, 0.5, 0.5]),
    "outputs": lambda block: block["outputs"][0].update(labels="net.py"),
    "layers": lambda block: block["layers"][0].update(name="features.0"),
    "methods": lambda block: block["methods"].append("layercam"),
    "samples": lambda block: block.update(samples=[]),
}


@pytest.mark.parametrize("key", SETTINGS)
def test_a_changed_setting_stops_the_load(unpacked, key):
    edit(unpacked, SETTINGS[key])
    with pytest.raises(
        ConfigError, match=rf"camserve\.{key} in model-config\.yaml was changed .* may be changed there"
    ):
        load(unpacked)


def test_what_depends_on_the_place_may_be_changed(unpacked):
    def change(block):
        block.update(runtime={"threads": 1, "fast": False}, defaults={"top_k": "1"}, limits={"max_side": 500})
        block.update(selftest="warn", monitoring={"low_confidence": 0.4, "audit": {"directory": "/var/log"}})

    edit(unpacked, change)
    pipeline = load(unpacked)
    assert pipeline.settings.limits.max_side == 500
    assert pipeline.monitor.selftest_ok


@pytest.mark.parametrize("text", ["[]", "nothing"])
def test_a_seal_that_was_written_anew_is_read_with_care(unpacked, text):
    (unpacked / "seal.json").write_text(text)
    edit(unpacked, lambda block: block.update(seal=hashlib.sha256(text.encode()).hexdigest()))
    with pytest.raises(ConfigError, match="holds no hashes"):
        load(unpacked)


def test_an_archive_without_a_seal_is_built_again(unpacked):
    edit(unpacked, lambda block: block.pop("seal"))
    with pytest.raises(ConfigError, match="no seal, since it was built by an older camserve: build it again"):
        load(unpacked)


def test_a_new_baseline_does_not_hide_what_was_changed(archive, unpacked, tmp_path):
    rotate(unpacked / "labels.txt")
    changed = shutil.make_archive(str(tmp_path / "changed"), "zip", unpacked)
    with pytest.raises(ConfigError, match=r"labels\.txt' was changed"):
        add_baseline(tmp_path / "changed.zip", tmp_path / "out.mar", b"{}")
    assert changed
    with open_archive(archive, baseline=False) as pipeline:  # whose baseline is none: another can be made
        assert pipeline.settings.monitoring.baseline is None


def test_the_settings_of_an_archive_hold_its_seal(archive):
    settings = read_contents(archive).settings
    assert len(settings.seal) == 64
    assert replace(settings, seal="") != settings
