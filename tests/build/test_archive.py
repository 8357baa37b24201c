"""The archive is self-contained, reproducible, and refuses what would not work."""

import dataclasses
import json
import subprocess
import sys
import zipfile

import pytest
import torch
import yaml
from safetensors.torch import load_file

from camserve.build.archive import NOT_SERVED, build_archive
from camserve.cli import main
from camserve.errors import ConfigError
from camserve.build.recipe import Recipe, find_file, load_recipe, read_state_dict
from camserve.build.unpack import open_archive, read_contents
from camserve.values import RawRequest
from model_file import NET, quiet

@pytest.fixture
def recipe(tmp_path):
    """A model file, its weights and labels, as a person would have them."""
    (tmp_path / "net.py").write_text(NET)
    scope = {}
    exec(NET, scope)
    torch.manual_seed(3)
    torch.save(scope["Net"]().state_dict(), tmp_path / "net.pt")
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    (tmp_path / "net.yaml").write_text(
        "name: pets\nfactory: Net\nmodel_file: net.py\nweights: net.pt\nlabels: labels.txt\n"
        "preprocess: {resize: 64, crop: 64}\nsamples: ['package://skimage/data/chelsea.png']\n"
    )
    return load_recipe(tmp_path / "net.yaml")


def test_the_same_inputs_give_the_same_bytes(recipe, tmp_path):
    first = build_archive(recipe, tmp_path / "a", quiet).read_bytes()
    assert build_archive(recipe, tmp_path / "b", quiet).read_bytes() == first


def test_the_archive_carries_what_serving_needs_and_nothing_else(imagenet):
    with zipfile.ZipFile(imagenet) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
    assert {"gradcam_handler.py", "camserve/serving/pipeline.py", "efficientnet_lite_pytorch/model.py"} <= names
    assert {"weights.safetensors", "labels.txt", "model-config.yaml", "samples/coffee.png"} <= names
    assert not {name for name in names if name.endswith(".pyc")}
    assert not {
        name for name in names if name.startswith("camserve/") and name.split("/")[1].split(".")[0] in NOT_SERVED
    }
    assert manifest["model"]["handler"] == "gradcam_handler.py"


def test_the_archive_runs_with_its_own_copy_of_the_code_alone(imagenet, tmp_path, coffee):
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(tmp_path)
    script = """
import sys, yaml, json, torch
from pathlib import Path
here = Path.cwd()
sys.path.insert(0, str(here))
from camserve.serving.pipeline import load_pipeline
from camserve.settings import load_settings
from camserve.values import RawRequest
import camserve
assert Path(camserve.__file__).parent == here / "camserve"
settings = load_settings(yaml.safe_load((here / "model-config.yaml").read_text())["camserve"])
pipeline = load_pipeline(here, settings, "imagenet", "1.0", torch.device("cpu"))
print(json.loads(pipeline.answer([RawRequest((here / "samples/coffee.png").read_bytes())])[0].body)["predictions"][0])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "'espresso'" in done.stdout


def test_served_weights_are_the_given_ones(recipe, tmp_path):
    archive = build_archive(recipe, tmp_path / "out", quiet)
    with zipfile.ZipFile(archive) as opened:
        opened.extract("weights.safetensors", tmp_path)
    given, carried = torch.load(recipe.weights, weights_only=True), load_file(tmp_path / "weights.safetensors")
    assert given.keys() == carried.keys()
    assert all(torch.equal(given[name], carried[name]) for name in given)


def test_an_archive_explains_without_a_server(recipe, tmp_path, chelsea):
    with open_archive(build_archive(recipe, tmp_path / "out", quiet)) as pipeline:
        told = json.loads(pipeline.answer([RawRequest(chelsea, {"target": "bird"})])[0].body)
    assert told["model"]["name"] == "pets"
    assert told["explanations"][0]["target"]["label"] == "bird"


@pytest.mark.parametrize(
    ("change", "message"),
    [
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
        ({"preprocess": "ResNet_Weights"}, "torchvision weights such as"),
        ({"bundle": ("numpy",)}, "compiled code"),
        ({"bundle": ("no_such_module",)}, "no installed module"),
        ({"samples": ("package://skimage/data/README.txt",)}, "not JPEG, PNG"),
    ],
)
def test_a_recipe_that_would_not_work_writes_nothing(recipe, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        build_archive(dataclasses.replace(recipe, **change), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_a_pickle_with_code_is_not_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("loaded",))

    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ConfigError, match="not a plain state dict"):
        read_state_dict(tmp_path / "trap.pt")


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_wrapped_state_dict_is_unwrapped(tmp_path, key):
    torch.save({key: {"a": torch.ones(1)}}, tmp_path / "wrapped.pt")
    assert read_state_dict(tmp_path / "wrapped.pt").keys() == {"a"}


def test_a_misspelled_key_of_a_recipe_is_named(tmp_path):
    (tmp_path / "m.yaml").write_text("name: m\nfactory: a:b\nweigths: x\n")
    with pytest.raises(ConfigError, match="unknown key 'weigths'; did you mean 'weights'"):
        load_recipe(tmp_path / "m.yaml")


def test_the_command_builds_inspects_and_explains(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = str(find_file("package://skimage/data/chelsea.png"))
    geometry = tmp_path / "geometry.yaml"
    geometry.write_text("resize: 64\ncrop: 64\n")
    flags = ["--factory", "Net", "--model-file", "net.py", "--weights", "net.pt", "--labels", "labels.txt"]
    assert main(["archive", "--name", "pets", *flags, "--preprocess", str(geometry), "--sample", photo]) == 0
    assert main(["inspect", "model_store/pets.mar", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "pets 1.0"
    assert main(["explain", photo, "--archive", "model_store/pets.mar", "--target", "dog", "--out", "why.png"]) == 0
    assert "dog" in capsys.readouterr().out
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert main(["explain", photo, "--archive", "model_store/pets.mar", "--target", "cow"]) == 1
    assert "no class is called 'cow'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["archive", "--name", "pets"])
    assert stopped.value.code == 2


def test_settings_written_are_settings_read(imagenet):
    contents = read_contents(imagenet)
    assert yaml.safe_load(yaml.safe_dump(contents.config)) == contents.config
    assert contents.settings.layers[0].grid == (7, 7)
    assert contents.config["batchSize"] > 1


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.mar").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not an archive"):
        read_contents(tmp_path / "x.mar")


def test_a_recipe_needs_a_name_and_weights_only():
    assert Recipe("n", "w", "a:b").methods == ("gradcam",)
