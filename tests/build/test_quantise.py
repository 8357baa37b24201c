"""An int8 trunk is calibrated on photos, held against float32 on others, and refused where it changes too much."""

import json
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camserve.build.archive import build_archive
from camserve.build.mar.file import extract_all
from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import QuantiseChoice, load_recipe, recipe_block
from camserve.build.runtime.compile import stage_compiled
from camserve.build.runtime.quantise import (
    MARGIN,
    QuantisePhotos,
    correlate_maps,
    describe_kept,
    quantise,
    read_calibration,
)
from camserve.cli import main
from camserve.errors import ConfigError
from camserve.fast.compiled import convert_trunk, import_openvino
from camserve.fast.split import Split, split
from camserve.input_spec import InputSpec
from camserve.measures import Quantised
from camserve.network.output import ScoringNetwork
from camserve.output_spec import OutputSpec
from camserve.serving.load import load_archive
from camserve.settings import ModelSpec, RuntimeSpec, Settings
from camserve.values import Layer, RawRequest
from model_file import quiet, write_pets
from small_networks import SHAPE, Network, Small, pooled, settle

pytestmark = pytest.mark.server  # OpenVINO's compiler takes as long as a server to start

INT8 = RuntimeSpec(mode="openvino", precision="int8")
LAX = QuantiseChoice(top1_agreement=0.5, map_correlation=0.5)


def recipe_in(folder, choice):
    return replace(load_recipe(write_pets(folder)), runtime=INT8, quantise=choice)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 100 pictures, and a file that is none."""
    folder, drawn = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(100):
        coarse = drawn.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory):
    """An int8 archive, and what was said while it was built."""
    said: list[str] = []
    recipe = recipe_in(tmp_path_factory.mktemp("pets"), replace(LAX, photos=str(photos)))
    return build_archive(recipe, tmp_path_factory.mktemp("store"), said.append, fresh_process=False), said


def test_one_half_of_the_photos_calibrates_and_the_other_is_compared(built):
    archive, said = built
    found = read_contents(archive).settings.compiled.quantised
    assert (found.calibrated_on, found.compared_on) == (50, 50)
    assert 0.5 <= found.top1_agreement <= 1
    assert 0.9 <= found.map_correlation <= 1
    assert any("50 photos calibrate, 50 others are compared" in line for line in said)
    assert any(f"correlate {found.map_correlation:.4f} at the median" in line for line in said)


def test_inspect_shows_what_int8_changes(built, capsys):
    archive, _ = built
    assert main(["inspect", str(archive), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["runtime"]["precision"] == "int8"
    assert shown["int8"]["compared_on"] == 50
    assert "openvino, without which it runs in mode eager" in shown["needs"]


def test_an_int8_archive_answers_nearly_as_its_eager_form_and_both_pass_the_self_test(
    built, tmp_path, chelsea, monkeypatch
):
    monkeypatch.setitem(sys.modules, "nncf", None)  # which a server does not have
    folder = tmp_path / "pets"
    extract_all(built[0], folder)
    settings = read_contents(built[0]).settings
    scores, maps = [], []
    for runtime in (INT8, INT8.eager):
        pipeline = load_archive(folder, replace(settings, runtime=runtime), "pets", "1.0", torch.device("cpu"))
        assert pipeline.monitor.selftest_ok
        assert isinstance(pipeline.network, Split) == (runtime == INT8)
        (answer,) = pipeline.answer([RawRequest(chelsea, {"explain": True, "evidence": "signed", "target": "cat"})])
        body = json.loads(answer.body)
        scores.append({found["label"]: found["score"] for found in body["predictions"]})
        maps.append(np.ravel(body["explanations"][0]["grid"]))
    assert scores[0] != scores[1]
    assert all(abs(scores[0][label] - score) <= 0.05 for label, score in scores[1].items())
    assert np.corrcoef(*maps)[0, 1] >= 0.98


def test_without_photos_the_samples_calibrate_and_no_figure_of_them_is_kept(tmp_path, capsys):
    said: list[str] = []
    archive = build_archive(recipe_in(tmp_path, LAX), tmp_path, said.append, fresh_process=False)
    assert read_contents(archive).settings.compiled.quantised == Quantised(calibrated_on=1, compared_on=0)
    assert any(
        "on the same 1 samples alone: quantise.photos of a recipe, or --calibrate FOLDER without one" in line
        for line in said
    )
    assert main(["inspect", str(archive), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["int8"]
    assert shown == {"calibrated_on": 1, "compared_on": 0, "kept": "", "why": "not compared: no photos were given"}


@pytest.mark.parametrize(
    "outputs",
    [
        (OutputSpec(task="regression"),),
        (OutputSpec(task="binary"),),
        (OutputSpec(task="multilabel"),),
        (OutputSpec(name="a"), OutputSpec(name="b")),
    ],
)
def test_int8_is_refused_where_no_best_class_can_be_compared(outputs, tmp_path):
    settings = replace(settings_of(64), outputs=outputs)
    with pytest.raises(ConfigError, match=r"int8 is for networks with one multiclass head.*: use bf16"):
        stage_compiled(tmp_path, settings, LAX, torch.zeros(1, 3, 64, 64), None, quiet)


def settings_of(side):
    return Settings(ModelSpec("any:factory"), InputSpec(crop=side, resize=side), (Layer("features"),), runtime=INT8)


def test_the_photos_of_a_large_folder_are_taken_from_all_of_it(tmp_path):
    for number in range(900):
        Image.new("RGB", (16, 16), "white" if number >= 450 else "black").save(tmp_path / f"{number:03}.png")
    shown = read_calibration(QuantiseChoice(str(tmp_path)), settings_of(16), None, quiet)
    for half in (shown.calibrating, shown.comparing):
        assert len(half) == 300
        assert sum(float(picture.mean()) > 0 for picture in half) == 150


def test_a_map_that_lost_its_contrast_has_no_correlation():
    expected = torch.rand(4, 49, generator=torch.Generator().manual_seed(0))
    assert correlate_maps(expected, expected).tolist() == pytest.approx([1] * 4)
    collapsed = torch.full((4, 49), 0.1)
    assert correlate_maps(collapsed, expected).tolist() == [0] * 4
    collapsed[0, 0] += 1e-8  # rounding is no contrast
    assert correlate_maps(collapsed, expected).tolist() == [0] * 4
    assert correlate_maps(torch.full((4, 49), torch.nan), expected).tolist() == [0] * 4
    expected[:3] = 0.1  # says nothing of three, and all of the last
    assert correlate_maps(expected, expected).tolist() == pytest.approx([1])


def test_what_changes_too_much_is_refused_with_its_figures(photos, tmp_path):
    choice = QuantiseChoice(str(photos), map_correlation=1.0)
    with pytest.raises(
        ConfigError,
        match=r"int8 changes too much \(.* of the best classes stay, maps correlate \S+ at the median; quantise asks",
    ):
        build_archive(recipe_in(tmp_path, choice), tmp_path, quiet)
    assert not (tmp_path / "pets.mar").exists()


def test_too_few_photos_are_refused(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    choice = QuantiseChoice(str(tmp_path))
    with pytest.raises(ConfigError, match=r"quantise.photos: 1 can be read in .*, 100 are needed"):
        build_archive(recipe_in(tmp_path, choice), tmp_path, quiet)


def test_a_recipe_names_its_photos_from_its_own_folder(tmp_path):
    path = write_pets(tmp_path)
    path.write_text(path.read_text() + "quantise: {photos: shown}\n")
    recipe = load_recipe(path)
    assert recipe.quantise.photos == str(tmp_path / "shown")
    assert recipe_block(recipe, path)["quantise"]["photos"] == "shown"
    with pytest.raises(ConfigError, match="top1_agreement"):
        QuantiseChoice(top1_agreement=2)


def test_photos_or_limits_for_another_precision_are_a_mistake(tmp_path):
    for choice in (QuantiseChoice(str(tmp_path)), QuantiseChoice(top1_agreement=0.9)):
        recipe = replace(recipe_in(tmp_path, choice), runtime=RuntimeSpec(precision="bf16"))
        with pytest.raises(ConfigError, match=r"quantise is for int8 alone: set runtime.mode openvino"):
            build_archive(recipe, tmp_path, quiet)


LOUD = 300.0


def coloured_pictures():
    """Return 64 pictures, of one colour each but for noise, (64, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randn(64, SHAPE[0], 1, 1, generator=generator)
    return colours + 0.1 * torch.randn(64, *SHAPE, generator=generator)


def loud_network(pictures):
    """Five convolutions: the third reads a channel whose range takes that of all others, and hardly uses it."""
    layers = [nn.Conv2d(3, 8, 3, 2, 1)]
    for _ in range(4):
        layers += [nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)]
    network = settle(Network(nn.Sequential(*layers), pooled(8).network.classifier))
    with torch.no_grad():
        for name, value in network.named_parameters():
            value *= 0 if name.endswith("bias") else 1
        network.features[2].weight[0] *= LOUD
        network.features[4].weight[:, 0] /= LOUD
        scores = network(pictures)
        network.classifier[2].weight *= (3 / scores.std(dim=0))[:, None]
        network.classifier[2].bias -= network(pictures).median(dim=0).values  # every class is somewhere the best
    return Small(network, Layer("features"))


def quantise_loud(choice, said):
    pictures = coloured_pictures()
    small = loud_network(pictures)
    network = ScoringNetwork(small.network).eval().requires_grad_(False)
    trunk, tail = split(network, small.layer, pictures[:2])
    halved = Split(network, trunk, tail, small.layer)
    shown = QuantisePhotos(list(pictures[::2]), list(pictures[1::2]))
    return quantise(convert_trunk(trunk, pictures[:2]), halved, small.layer, shown, choice, said.append)


def test_the_layer_that_int8_harms_most_stays_in_floating_point():
    said: list[str] = []
    _, found = quantise_loud(QuantiseChoice(top1_agreement=0.6, map_correlation=0.9), said)
    assert found.kept == "layers 3 of 5"
    exact, whole, *_, last = (float(line.split()[4]) for line in said if "probabilities move by" in line)
    assert exact < 1e-4
    assert last <= MARGIN * 0.4 < whole
    assert said[-1].startswith("int8, layers 3 of 5 in floating point: ")


def test_no_layer_is_kept_where_the_limits_allow_all_in_int8():
    said: list[str] = []
    _, found = quantise_loud(QuantiseChoice(top1_agreement=0.0, map_correlation=-1.0), said)
    assert found.kept == ""
    assert len(said) == 3  # float32, int8, and what int8 changes: nothing is ranked


def test_so_many_steps_are_tried_as_one_in_five_layers_where_no_limit_can_be_met():
    said: list[str] = []
    with pytest.raises(ConfigError, match="changes too much"):
        quantise_loud(QuantiseChoice(top1_agreement=1.0, map_correlation=1.0), said)
    passes = [line for line in said if "probabilities move by" in line]
    assert len(passes) == 3  # float32, int8, and one step for five layers; what ranks them gets no line


def test_a_product_of_activations_is_no_layer_with_weights():
    import_openvino()
    ops = import_module("openvino.opset13")
    pixels = ops.parameter([2, 4, 4], np.float32)
    layer = ops.matmul(pixels, ops.constant(np.ones((4, 4), np.float32)), False, False)
    scores = ops.multiply(ops.transpose(layer, [0, 2, 1]), ops.constant(np.float32(0.5)))
    model = import_openvino().Model([ops.matmul(layer, scores, False, False)], [pixels])
    assert describe_kept(model) == "layers 1 of 1"
