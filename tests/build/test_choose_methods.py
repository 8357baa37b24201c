"""The method of a request that names none, by what the score does with the target layer's grid."""

import dataclasses

import pytest
import torch

from camserve.build.choose_methods import choose_methods, suitable_method
from camserve.build.probe.target import Target
from camserve.build.recipe import Recipe, RecipeDefaults, load_recipe, write_recipe
from camserve.settings import RuntimeSpec
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
    assert suitable_method(kind.scoring(), Target((kind.layer,)), pixels) == method


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


def test_a_written_recipe_leaves_the_choice_open_or_keeps_it(tmp_path):
    for defaults in (RecipeDefaults(), RecipeDefaults(target="top:2"), RecipeDefaults(method="gradcam")):
        recipe = dataclasses.replace(PLAIN, weights=str(tmp_path / "net.pt"), defaults=defaults)
        write_recipe(recipe, tmp_path / "net.yaml")
        assert load_recipe(tmp_path / "net.yaml").defaults == defaults


def test_a_compiled_archive_needs_gradients():
    with pytest.raises(Exception, match=r"runtime\.mode aot needs a network whose gradients"):
        choose_methods(dataclasses.replace(PLAIN, runtime=RuntimeSpec(mode="aot")), "reciprocam")
