"""An archive that no longer answers as it did when it was built is not served."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch

from camserve.build.archive import build_archive
from camserve.build.mar.file import extract_all
from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import load_recipe
from camserve.errors import ConfigError
from camserve.serving.load import load_archive, load_pipeline
from camserve.serving.selftest import self_test
from conftest import RECIPE
from model_file import quiet, write_pets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def archive(build_once):
    """An archive of two samples."""

    def build(folder):
        samples = tuple(f"package://skimage/data/{name}.png" for name in ("coffee", "chelsea"))
        return build_archive(replace(load_recipe(write_pets(folder)), samples=samples), folder, quiet, False)

    return build_once("selftest", build)


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    extract_all(archive, folder)
    return folder, read_contents(archive).settings


def load(folder, settings):
    """Load as ``load_archive`` does, but for the seal, which would find most of these changes first."""
    pipeline = load_pipeline(folder, settings, "pets", "1.0", CPU)
    pipeline.monitor.selftest_ok = self_test(pipeline, folder, CPU)
    return pipeline


def test_an_untouched_archive_loads(unpacked):
    assert load_archive(*unpacked, "pets", "1.0", CPU).heads[0].labels.find("dog") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        {"interpolation": "nearest"},
        {"resize": 72},
    ],
)
def test_another_preprocessing_is_refused(unpacked, wrong):
    folder, settings = unpacked
    changed = replace(settings, input=replace(settings.input, **wrong))
    with pytest.raises(ConfigError, match=r"coffee.png: .* as when it was built"):
        load(folder, changed)


def test_another_preprocessing_is_served_with_a_warning_where_the_settings_say_so(unpacked, caplog):
    folder, settings = unpacked
    changed = replace(settings, input=replace(settings.input, interpolation="nearest"), selftest="warn")
    assert not load(folder, changed).monitor.selftest_ok
    assert "as when it was built" in caplog.text


def test_another_layer_is_refused(unpacked):
    folder, settings = unpacked
    layer = replace(settings.layers[0], name="features.2")
    with pytest.raises(ConfigError, match="map is not the one"):
        load(folder, replace(settings, layers=(layer,)))


LOST = {
    "removed": None,
    "empty": "{}",
    "no JSON": "[",
    "no block": "[]",
    "without predictions": json.dumps(
        {"options": {}, "answers": {f"samples/{name}.png": {"predictions": []} for name in ("coffee", "chelsea")}}
    ),
    "of another sample": '{"options": {}, "answers": {"samples/other.png": {"predictions": [], "explanations": []}}}',
}


def test_nothing_to_compare_is_no_pass(unpacked, tmp_path, caplog):
    folder, settings = unpacked
    copy = shutil.copytree(folder, tmp_path / "copy")
    for text in LOST.values():
        (copy / "selftest.json").unlink(missing_ok=True)
        if text is not None:
            (copy / "selftest.json").write_text(text)
        with pytest.raises(ConfigError, match=r"selftest\.json holds no (answer to|predictions for) samples/"):
            load(copy, settings)
    assert not load(copy, replace(settings, selftest="warn")).monitor.selftest_ok
    assert load(copy, replace(settings, selftest="off")).monitor.selftest_ok is None


def test_numbers_that_are_none_and_labels_that_moved_are_no_pass(unpacked, tmp_path):
    folder, settings = unpacked
    copy = shutil.copytree(folder, tmp_path / "copy")
    answers = json.loads((copy / "selftest.json").read_text())
    best = answers["answers"]["samples/coffee.png"]["predictions"][0]
    best["score"] = float("nan")
    (copy / "selftest.json").write_text(json.dumps(answers))
    with pytest.raises(ConfigError, match="as when it was built"):
        load(copy, settings)
    shutil.copy(folder / "selftest.json", copy)
    names = (copy / "labels.txt").read_text().splitlines()
    (copy / "labels.txt").write_text("\n".join([*names[1:], names[0]]))
    with pytest.raises(ConfigError, match=rf"class {best['index']} is called \w+, not {best['label']}"):
        load(copy, settings)


def test_truncated_and_exchanged_weights_are_refused(unpacked, tmp_path):
    folder, settings = unpacked
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match="SHA-256"):
        load(copy, settings)
    found = hashlib.sha256(whole[:-100]).hexdigest()
    trusting = replace(settings, model=replace(settings.model, sha256=found))
    with pytest.raises(ConfigError, match="not a whole safetensors file"):
        load(copy, trusting)


def test_a_path_out_of_the_archive_is_refused(unpacked):
    folder, settings = unpacked
    outside = (replace(settings.outputs[0], labels="../labels.txt"),)
    with pytest.raises(ConfigError, match="does not lie inside"):
        load(folder, replace(settings, outputs=outside))


@pytest.mark.server  # a network of common size
def test_a_builder_with_the_wrong_normalisation_is_stopped_by_what_is_expected(tmp_path):
    wrong = replace(load_recipe(RECIPE), preprocess="imagenet", methods=("gradcam",))
    with pytest.raises(ConfigError, match="are preprocess and labels those of the weights"):
        build_archive(wrong, tmp_path, quiet)


def test_the_archive_holds_the_answers_of_its_samples(unpacked):
    folder, settings = unpacked
    answers = json.loads((folder / "selftest.json").read_text())["answers"]
    assert set(answers) == set(settings.samples)
    assert answers["samples/coffee.png"]["predictions"][0]["label"] in {"cat", "dog", "bird"}
