"""The archive is self-contained, reproducible, and refuses what would not work."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import camserve
from camserve.build.archive import SERVED, build_archive, copy_served
from camserve.build.mar.replay import SCRIPT
from camserve.build.mar.unpack import baseline_of, open_archive, read_contents
from camserve.build.recipe import Recipe, load_recipe
from camserve.errors import ConfigError
from camserve.settings import Limits
from camserve.values import RawRequest
from model_file import quiet, write_pets

FAULTS = [
    ({"factory": "Nett"}, "no callable 'Nett'"),
    ({"factory": "nowhere.at.all:Net", "model_file": None}, "cannot be imported"),
    ({"factory": "Net", "model_file": None}, "must be 'module:callable'"),
    ({"factory": None, "model_file": None}, "factory is missing"),
    ({"args": {"klasses": 3}}, "factory Net failed"),
    ({"args": {"classes": 4}}, "do not fit the network"),
    ({"weights": "/nonexistent.pt"}, "there is no file"),
    ({"labels": "imagenet"}, "1000 names for 3 classes"),
    ({"layer": "feature"}, "feature"),
    ({"layer": "head"}, "head"),
    ({"preprocess": None, "weights": "/nonexistent.pt"}, "preprocess is missing: name that of the weights: imagenet, "),
    ({"preprocess": "ResNet_Weights"}, "torchvision weights such as"),
    ({"bundle": ("numpy",)}, "compiled code"),
    ({"bundle": ("no_such_module",)}, "no installed module"),
    ({"samples": ("package://skimage/data/README.txt",)}, "not JPEG, PNG"),
    ({"name": "../pets"}, "may hold letters, digits"),
    ({"limits": Limits(answer_ms=25_000)}, "more than two thirds of serving.responseTimeout, 30 s"),
    ({"serving": {"asyncCommunication": True}}, "serving.asyncCommunication: true hands over one request at a time"),
    ({"serving": {"maxBatchDelay": 0}}, "serving.maxBatchDelay must be a whole number from 1"),
    ({"serving": {"minWorkers": 2, "maxWorkers": 1}}, "serving.minWorkers 2 is above maxWorkers 1"),
    ({"limits": Limits(max_response_bytes=6_600_000)}, "above the 6500000 that TorchServe passes on"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A model file, its weights and labels, as a person would have them."""
    return load_recipe(write_pets(tmp_path_factory.mktemp("pets")))


@pytest.fixture(scope="module")
def pets(recipe, tmp_path_factory):
    return build_archive(recipe, tmp_path_factory.mktemp("store"), quiet, fresh_process=False)


@pytest.fixture(scope="module")
def unpacked(pets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(pets) as archive:
        archive.extractall(folder)
    return folder


def test_the_same_inputs_give_the_same_bytes_and_what_is_replaced_is_said(recipe, pets, tmp_path):
    (tmp_path / "pets.mar").write_bytes(b"another model of this name")
    lines = []
    assert build_archive(recipe, tmp_path, lines.append, fresh_process=False).read_bytes() == pets.read_bytes()
    assert any(line.startswith(f"{tmp_path / 'pets.mar'} is replaced") for line in lines)


def test_the_archive_carries_what_serving_needs_and_nothing_else(unpacked):
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    code = {name for name in names if name.startswith("camserve/")}
    bundled = {name for name in names if name.startswith("efficientnet_lite_pytorch/")}
    assert "efficientnet_lite_pytorch/model.py" in bundled
    assert not [name for name in names if name.endswith(".pyc")]
    assert names - code - bundled == {
        "MAR-INF/MANIFEST.json",
        "selftest.json",
        "gradcam_handler.py",
        "labels.txt",
        "model-config.yaml",
        "net.py",
        "samples/chelsea.png",
        "seal.json",
        "weights.safetensors",
    }
    package = Path(camserve.__file__).parent.parent
    assert code == {"camserve/__init__.py"} | {
        path.relative_to(package).as_posix()
        for name in SERVED
        for path in [package / "camserve" / f"{name}.py", *(package / "camserve" / name).rglob("*")]
        if path.is_file() and path.suffix != ".pyc"
    }
    manifest = json.loads((unpacked / "MAR-INF/MANIFEST.json").read_text())
    assert manifest["model"]["handler"] == "gradcam_handler.py"


def test_the_list_of_served_rooms_is_of_paths_and_not_of_names(tmp_path):
    package = tmp_path / "camserve"
    for name in ("__init__", *(name for name in SERVED if name != "monitor")):
        (package / f"{name}.py").parent.mkdir(exist_ok=True)
        (package / f"{name}.py").touch()
    served = ("monitor/__init__.py", "monitor/server.py", "monitor/build/cli.py")
    off_line = ("bulk/__init__.py", "bulk/values.py", "bulk/monitor/server.py", "server.py", "config/metrics.yaml")
    for path in (*served, *off_line, "monitor/__pycache__/server.pyc"):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).touch()
    copy_served(package, tmp_path / "content")
    copied = {path.relative_to(tmp_path / "content").as_posix() for path in (tmp_path / "content").rglob("*.*")}
    assert copied == {"__init__.py", *served, *(f"{name}.py" for name in SERVED if name != "monitor")}


@pytest.mark.server
def test_the_archive_runs_with_its_own_copy_of_the_code_alone(unpacked):
    """And passes its self-test in the process in which every built archive is tried."""
    script = f"""{SCRIPT}
import camserve, json
from camserve.values import RawRequest
assert Path(camserve.__file__).parent == folder / "camserve"
photo = (folder / "samples/chelsea.png").read_bytes()
print(json.loads(pipeline.answer([RawRequest(photo)])[0].body)["predictions"][0])
assert "torch._dynamo" not in sys.modules  # which takes seconds and 100 MB
"""
    command = [sys.executable, "-I", "-c", script, unpacked, "1", "eager"]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=False)
    expected = json.loads((unpacked / "selftest.json").read_text())["answers"]["samples/chelsea.png"]["predictions"][0]
    assert f"'{expected['label']}'" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def test_served_weights_are_the_given_ones(recipe, unpacked):
    given, carried = torch.load(recipe.weights, weights_only=True), load_file(unpacked / "weights.safetensors")
    assert given.keys() == carried.keys()
    assert all(torch.equal(given[name], carried[name]) for name in given)


def test_an_archive_explains_without_a_server(pets, chelsea):
    with open_archive(pets) as pipeline:
        answer = json.loads(pipeline.answer([RawRequest(chelsea, {"target": "bird"})])[0].body)
    assert answer["model"]["name"] == "pets"
    assert answer["explanations"][0]["target"]["label"] == "bird"


def test_a_recipe_that_would_not_work_writes_nothing(recipe, tmp_path):
    for change, message in FAULTS:
        broken = dataclasses.replace(recipe, **change)
        with pytest.raises(ConfigError, match=message):
            build_archive(broken, tmp_path / "out", quiet, fresh_process=False)
    assert not (tmp_path / "out").exists()


def test_a_misspelled_key_of_a_recipe_is_named(tmp_path):
    (tmp_path / "m.yaml").write_text("name: m\nfactory: a:b\nweigths: x\n")
    with pytest.raises(ConfigError, match="unknown key 'weigths'; did you mean 'weights'"):
        load_recipe(tmp_path / "m.yaml")


def test_settings_written_are_settings_read(pets):
    contents = read_contents(pets)
    assert yaml.safe_load(yaml.safe_dump(contents.config)) == contents.config
    assert contents.settings.layers[0].grid == (7, 7)
    assert contents.config["batchSize"] > 1


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.mar").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not an archive"):
        read_contents(tmp_path / "x.mar")


def test_an_archive_without_a_baseline_is_told_how_to_get_one(pets):
    with pytest.raises(ConfigError, match="has no baseline: camserve baseline"):
        baseline_of(pets)


def test_a_recipe_needs_a_name_and_weights_only():
    assert Recipe("n", "w", "a:b").methods == ()


def test_a_method_that_does_not_suit_the_network_is_refused_in_one_line(recipe, tmp_path, caplog):
    unfit = dataclasses.replace(recipe, methods=("gradcam", "attention"))
    with pytest.raises(
        ConfigError,
        match=r"methods: .* needs attention over all \d+ tokens after .* may have it; or leave attention out",
    ):
        build_archive(unfit, tmp_path, quiet, fresh_process=False)
    assert not [record for record in caplog.records if record.exc_info]
    assert not list(tmp_path.glob("*.mar"))


@pytest.mark.server
def test_an_archive_that_only_the_builder_can_load_is_not_written(recipe, tmp_path):
    """The tests' own folders are on this process's path, as a project's are where PYTHONPATH says so."""
    here = tmp_path / "here"
    here.mkdir()
    source = Path(recipe.model_file).read_text()
    (here / "net.py").write_text(source.replace("return self", "import model_file\n        return self"))
    lost = dataclasses.replace(recipe, model_file=str(here / "net.py"))
    with pytest.raises(ConfigError, match=r"process of its own: .*No module named 'model_file'.*bundle") as refusal:
        build_archive(lost, tmp_path / "out", quiet)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
