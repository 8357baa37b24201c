"""camserve init writes recipes that build, and options of the command line are keys of a recipe."""

import re
from dataclasses import fields

import pytest
import yaml

from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import Recipe, RecipeDefaults, load_recipe
from camserve.build.recipe_template import KEYS
from camserve.cli import main
from camserve.strict import read
from model_file import write_pets

FLAGS = ["--weights", "net.pt", "--labels", "labels.txt", "--preprocess", "geometry.yaml"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model file, its weights and its labels."""
    write_pets(tmp_path).unlink()
    (tmp_path / "geometry.yaml").write_text("resize: 64\ncrop: 64\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_has_every_key_and_each_example_can_be_read(tmp_path):
    assert set(KEYS) == {field.name for field in fields(Recipe)}
    for key, (_, example) in KEYS.items():
        (tmp_path / "one.yaml").write_text(yaml.safe_dump({"name": "a", "weights": "net.pt", key: example}))
        load_recipe(tmp_path / "one.yaml")


def test_the_defaults_that_are_shown_are_those_of_a_recipe_without_them():
    assert read(RecipeDefaults, KEYS["defaults"][1], "defaults") == Recipe("any", "any").defaults


@pytest.mark.usefixtures("one_process")
def test_init_writes_what_archive_builds_from_the_same_options(folder, capsys):
    options = [*FLAGS, "--methods", "gradcam", "layercam", "--set", "batchSize=4", "--set", "limits.max_targets=2"]
    assert main(["init", "net.py", *options, "--out", "recipes/pets.yaml"]) == 0
    assert capsys.readouterr().out == "wrote recipes/pets.yaml; then: camserve archive recipes/pets.yaml\n"
    text = (folder / "recipes" / "pets.yaml").read_text()
    assert [key for key in KEYS if not re.search(rf"^(# )?{key}:", text, re.MULTILINE)] == []
    assert main(["archive", "recipes/pets.yaml", "--out", "one"]) == 0
    assert main(["archive", "net.py", *options, "--out", "other"]) == 0
    assert (folder / "one" / "net.mar").read_bytes() == (folder / "other" / "net.mar").read_bytes()
    contents = read_contents(folder / "one" / "net.mar")
    assert contents.config["batchSize"] == 4
    assert contents.settings.limits.max_targets == 2
    assert contents.settings.methods == ("gradcam", "layercam")


def test_show_samples_without_any_is_refused_before_anything_is_loaded(folder, capsys):
    assert main(["archive", "net.py", *FLAGS, "--show-samples"]) == 1
    assert capsys.readouterr().err.endswith("show_samples: there are none; name photos in samples, or leave it out\n")


def test_what_a_model_file_cannot_say_is_said_to_be_missing(folder, capsys):
    (folder / "net.py").write_text("raise SystemExit('it was run')\n" + (folder / "net.py").read_text())
    assert main(["init", "net.py"]) == 0
    said = capsys.readouterr().err
    assert "net.yaml lacks weights" in said
    assert "net.yaml lacks preprocess" in said
    text = (folder / "net.yaml").read_text()
    assert "factory: Net\n" in text
    assert text.count("# MISSING: ") == 2
    assert load_recipe(folder / "net.yaml").weights == str(folder / "net.pt")
    assert main(["init", "net.py"]) == 1
    assert "net.yaml exists: name a new file with --out" in capsys.readouterr().err


def test_a_recipe_is_no_source_of_a_recipe_and_nothing_gives_no_name(folder, capsys):
    assert main(["init", "pets.yaml"]) == 1
    assert "is a recipe already" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["init", "--labels", "labels.txt"])
    assert stopped.value.code == 2
    (folder / "two.py").write_text("class One: ...\nclass Two: ...\n")
    assert main(["init", "two.py"]) == 1
    assert "must define one class, not One, Two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("batchsize=3", "did you mean 'batchSize'?"),
        ("labels=x", "--set takes keys of defaults, limits, quantise, runtime, serving, and minWorkers"),
        ("top", "is no KEY=VALUE"),
        ("limits.max_targts=3", "did you mean 'max_targets'?"),
    ],
)
def test_a_wrong_pair_is_refused(folder, pair, said, capsys):
    assert main(["init", "net.py", *FLAGS, "--set", pair]) == 1
    assert said in capsys.readouterr().err
    assert not (folder / "net.yaml").exists()
