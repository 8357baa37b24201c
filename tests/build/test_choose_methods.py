"""The method of a request that names none, by what the score does with the target layer's grid."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

from camserve.answer.render.boxes import boxes
from camserve.bench.networks import wake
from camserve.build.archive import build_archive
from camserve.build.choose_methods import choose_methods, suitable_method
from camserve.build.mar.unpack import open_archive
from camserve.build.probe.target import TargetLayers
from camserve.build.recipe import OutputChoice, Recipe, RecipeDefaults, load_recipe, write_recipe
from camserve.input_spec import InputSpec
from camserve.settings import RuntimeSpec
from camserve.values import RawRequest
from library_networks import HF, TIMM, TV

PLAIN = Recipe("net", "net.pt")
EXPECTED = {
    "layercam": [(TIMM, "class token"), (TIMM, "registers"), (TIMM, "attention pool"), (HF, "vit")],
    "gradcam": [(TIMM, "mean of tokens"), (TIMM, "mixer"), (HF, "swin"), (TV, "swin"), (HF, "resnet")],
}


@pytest.mark.parametrize(
    ("method", "kinds", "name"), [(method, *pair) for method, pairs in EXPECTED.items() for pair in pairs]
)
def test_tokens_that_the_score_does_not_read_alike_are_explained_by_layercam(method, kinds, name):
    kind = kinds[name]
    pixels = torch.randn(3, 3, *kind.size, generator=torch.Generator().manual_seed(1))
    assert suitable_method(kind.scoring(), TargetLayers((kind.layer,)), pixels) == method


@pytest.mark.parametrize(
    ("recipe", "suitable", "methods", "default"),
    [
        (PLAIN, "gradcam", ("gradcam",), "gradcam"),
        (PLAIN, "layercam", ("layercam", "gradcam"), "layercam"),
        (PLAIN, "reciprocam", ("reciprocam",), "reciprocam"),
        (dataclasses.replace(PLAIN, methods=("gradcam", "layercam")), "layercam", ("gradcam", "layercam"), "layercam"),
        (dataclasses.replace(PLAIN, methods=("hirescam", "gradcam")), "layercam", ("hirescam", "gradcam"), "hirescam"),
        (dataclasses.replace(PLAIN, defaults=RecipeDefaults(method="gradcam")), "layercam", None, "gradcam"),
        (dataclasses.replace(PLAIN, methods=("gradcam", "eigencam")), "reciprocam", ("eigencam",), "eigencam"),
    ],
)
def test_a_recipe_wins_over_what_suits_the_layer(recipe, suitable, methods, default):
    offered, defaults = choose_methods(recipe, suitable)
    assert offered == (methods or ("layercam", "gradcam"))
    assert defaults.method == default


def test_a_vision_transformer_is_served_with_layercam_and_boxes_of_averaged_tokens(tmp_path, chelsea):
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    save_file(wake(VisionTransformer(**sizes).eval()).state_dict(), tmp_path / "net.safetensors")
    spec = InputSpec(resize=64, crop=64)
    choice = OutputChoice(activation="none")
    weights = str(tmp_path / "net.safetensors")
    recipe = Recipe("vit", weights, "timm.models:VisionTransformer", args=sizes, preprocess=spec, output=choice)
    lines = []
    with open_archive(build_archive(recipe, tmp_path, lines.append, fresh_process=False)) as pipeline:
        asked = {"format": "grid,boxes", "box_threshold": "0.95"}
        answer = json.loads(pipeline.answer([RawRequest(chelsea, asked)])[0].body)
        assert pipeline.settings.methods == ("layercam", "gradcam")
    assert "method: layercam, since the grid is of tokens and the score does not read all of them alike" in lines
    (explanation,) = answer["explanations"]
    assert explanation["method"] == "layercam"
    grid, region = np.array(explanation["grid"]), answer["input"]["region"]
    expected, raw = (boxes(grid, region, 0.95, of_tokens)[0] for of_tokens in (True, False))
    assert explanation["boxes"][0] == pytest.approx(expected, abs=0.01)
    assert expected != raw


def test_a_written_recipe_leaves_the_choice_open_or_keeps_it(tmp_path):
    for defaults in (RecipeDefaults(), RecipeDefaults(target="top:2"), RecipeDefaults(method="gradcam")):
        recipe = dataclasses.replace(PLAIN, weights=str(tmp_path / "net.pt"), defaults=defaults)
        write_recipe(recipe, tmp_path / "net.yaml")
        assert load_recipe(tmp_path / "net.yaml").defaults == defaults


def test_an_archive_of_mode_openvino_needs_gradients():
    with pytest.raises(Exception, match=r"runtime\.mode openvino needs a network whose gradients"):
        choose_methods(dataclasses.replace(PLAIN, runtime=RuntimeSpec(mode="openvino")), "reciprocam")
