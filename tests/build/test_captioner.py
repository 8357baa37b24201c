"""Any score, on a captioner: the map of a word lies on its shape (Selvaraju et al. 2017, sections 5 and 6)."""

import numpy as np
import pytest
import torch

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import Recipe
from camserve.input_spec import InputSpec
from captioner import MODEL, SHAPES, SIDE, draw_scene, encode, train
from model_file import quiet
from output_archives import ask


@pytest.mark.server  # the training takes five seconds
def test_the_map_of_a_word_lies_on_its_shape(tmp_path):
    (tmp_path / "net.py").write_text(MODEL)
    torch.save(train().state_dict(), tmp_path / "net.pt")
    (tmp_path / "words.txt").write_text("\n".join((*SHAPES, "end")))
    recipe = Recipe(
        "captioner",
        str(tmp_path / "net.pt"),
        factory="Captioner",
        model_file=str(tmp_path / "net.py"),
        labels=str(tmp_path / "words.txt"),
        score="net:next_word",
        preprocess=InputSpec(resize=(SIDE, SIDE), crop=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
    random = np.random.default_rng(99)
    scenes = [draw_scene(random) for _ in range(24)]
    words = [[name for name, _ in things] for _, things in scenes]
    bodies = [encode(image) for image, _ in scenes]
    with open_archive(build_archive(recipe, tmp_path, quiet)) as pipeline:
        first = ask(pipeline, *bodies, target=[",".join(names) for names in words])
        second = ask(pipeline, *bodies, context=[names[0] for names in words])
        last = ask(pipeline, *bodies, context=[" ".join(names) for names in words])
        (refused,) = ask(pipeline, bodies[0], context="circle and")
    # It says both shapes in either order, and then ends.
    assert np.mean([best(answer) in names for answer, names in zip(first, words)]) > 0.9
    assert np.mean([best(answer) == names[1] for answer, names in zip(second, words)]) > 0.9
    assert np.mean([best(answer) == "end" for answer in last]) > 0.9
    assert "'context' is refused by the model" in refused["error"]["message"]
    places = [dict(things) for _, things in scenes]
    maps = [
        (explanation, place)
        for answer, place in zip([*first, *second], [*places, *places])
        for explanation in answer["explanations"]
        if explanation["target"]["label"] in place
    ]
    shares = np.array([share_on_shape(explanation, place) for explanation, place in maps])
    assert len(shares) >= 3 * len(scenes) - 2
    print(f"share of a word's map on its shape: mean {shares.mean():.2f}, {(shares > 0.5).mean():.0%} above a half")
    assert shares.mean() > 0.6  # a quarter by chance, a half if it lay on both shapes
    assert (shares > 0.5).mean() > 0.85


def best(answer):
    return answer["predictions"][0]["label"]


def share_on_shape(explanation, places):
    """The share of the map in the quadrant of the word's shape."""
    grid, (row, column) = np.array(explanation["grid"]), places[explanation["target"]["label"]]
    half = len(grid) // 2
    return grid[row * half : row * half + half, column * half : column * half + half].sum() / max(grid.sum(), 1e-9)
