"""Speed is never bought with another answer: every runtime against eager float32, on real photos.

With CAMSERVE_DATA the photos are the 500 of ImageNet's validation set there, and their labels count.
"""

import json
import os
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import QuantiseChoice, load_recipe
from camserve.fast.packing import can_pack
from camserve.fast.split import Split
from camserve.serving.load import load_pipeline
from camserve.settings import RuntimeSpec
from camserve.values import RawRequest
from conftest import RECIPE
from labelled_photos import Photos, read_photos

pytestmark = pytest.mark.server  # a builder takes its time

DATA = Path(os.environ.get("CAMSERVE_DATA", "")) / "imagenet-val-500"
ESPRESSO, TIGER_CAT = 967, 282
BATCH = 20
RUNTIMES = {  # most points of accuracy lost, difference of a probability at the median photo, correlation of its map
    "eager, channels first": (RuntimeSpec(channels_last=False), 0.0, 1e-5, 0.99999),
    "openvino": (RuntimeSpec(mode="openvino"), 0.0, 1e-5, 0.99999),
    "bf16": (RuntimeSpec(precision="bf16"), 0.2, 0.02, 0.99),
    "openvino bf16": (RuntimeSpec(mode="openvino", precision="bf16"), 0.4, 0.02, 0.99),
    "openvino int8": (RuntimeSpec(mode="openvino", precision="int8"), 0.8, 0.05, 0.98),
}


@pytest.fixture(scope="module")
def photos():
    if DATA.is_dir():
        photos = read_photos(DATA)
        # Without bf16 of its own a processor takes minutes for what others do in seconds.
        step = 1 if can_pack(torch.bfloat16, torch.device("cpu")) else 5
        return Photos(photos.paths[::step], photos.classes[::step])
    paths = [find_file(f"package://skimage/data/{name}.png") for name in ("coffee", "chelsea")]
    return Photos(paths, np.array([ESPRESSO, TIGER_CAT]))


def calibration_photos(folder):
    """Return a folder with links to every second photo of CAMSERVE_DATA; None: there is none."""
    if not DATA.is_dir():
        return None
    for path in read_photos(DATA).paths[::2]:
        (folder / path.name).symlink_to(path)
    return str(folder)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Build the shipped model for OpenVINO: one archive for fp32 and bf16, and one for int8."""

    @cache
    def converted(precision):
        folder = tmp_path_factory.mktemp("converted")
        runtime = RuntimeSpec(mode="openvino", precision=precision)
        recipe = replace(load_recipe(RECIPE), runtime=runtime, methods=("gradcam",))
        if precision == "int8":
            shown = calibration_photos(folder)
            # The two samples are too few to judge by.
            quantise = QuantiseChoice(shown) if shown else QuantiseChoice(None, 0.0, 0.0)
            # The best two classes of a sample are .002 apart: int8 exchanges them.
            recipe = replace(recipe, quantise=quantise, expect={})
        return build_archive(recipe, folder, print, fresh_process=False)

    return converted


@pytest.fixture(scope="module")
def answer(imagenet, converted, photos, tmp_path_factory):
    def answer(runtime):
        """Return every photo's best class, probability of its true class or 0, and map of its true class."""
        archive = imagenet
        if runtime.mode != "eager":
            archive = converted("int8" if runtime.precision == "int8" else "fp32")
        folder = tmp_path_factory.mktemp("runtime")
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder)
        settings = replace(read_contents(archive).settings, runtime=runtime)
        pipeline = load_pipeline(folder, settings, "imagenet", "1.0", torch.device("cpu"))
        assert isinstance(pipeline.network, Split) == (runtime.mode != "eager")
        rows = [
            RawRequest(path.read_bytes(), {"target": str(truth), "evidence": "signed", "top_k": "100"})
            for path, truth in zip(photos.paths, photos.classes)
        ]
        bodies = [
            json.loads(answer.body)
            for start in range(0, len(rows), BATCH)
            for answer in pipeline.answer(rows[start : start + BATCH])
        ]
        best = np.array([body["predictions"][0]["index"] for body in bodies])
        probabilities = np.array([body["explanations"][0]["target"]["probability"] for body in bodies])
        return best, probabilities, [np.ravel(body["explanations"][0]["grid"]) for body in bodies]

    return answer


@pytest.fixture(scope="module")
def reference(answer):
    return answer(RuntimeSpec())


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_gives_the_classes_probabilities_and_maps_of_eager_float32(name, answer, reference, photos):
    runtime, points, probability, correlation = RUNTIMES[name]
    # The others calibrate int8.
    shown = slice(1, None, 2) if runtime.precision == "int8" and DATA.is_dir() else slice(None)
    best, known, maps = (found[shown] for found in answer(runtime))
    expected_best, expected_known, expected_maps = (found[shown] for found in reference)
    classes = photos.classes[shown]
    accuracy, expected_accuracy = ((found == classes).mean() for found in (best, expected_best))
    apart = np.abs(known - expected_known)
    alike = np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(maps, expected_maps)])
    print(
        f"{name}: {len(best)} photos, accuracy {accuracy:.3f} and {expected_accuracy:.3f}, "
        f"{np.sum(best != expected_best)} in another class, "
        f"probability apart {np.median(apart):.1e} (most {apart.max():.1e}), "
        f"maps correlate {np.median(alike):.5f} (1 % quantile {np.quantile(alike, 0.01):.5f})"
    )
    assert 100 * (expected_accuracy - accuracy) <= max(points, 100 / len(best) if points else 0) + 1e-9
    assert np.median(apart) <= probability
    assert np.median(alike) >= correlation
    assert np.mean(alike >= correlation) >= 0.95
