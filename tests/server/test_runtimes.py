"""Speed is never bought with another answer: every runtime against eager float32, on real photos.

With CAMSERVE_DATA the photos are the 500 of ImageNet's validation set there, and their labels count.
"""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from camserve.evaluate.drift_study import Photos, read_photos
from camserve.pipeline import load_pipeline
from camserve.recipe import find_file
from camserve.settings import RuntimeSpec
from camserve.split import Split
from camserve.unpack import read_contents
from camserve.values import RawRequest

pytestmark = pytest.mark.server  # a compiler takes its time

DATA = Path(os.environ.get("CAMSERVE_DATA", "")) / "imagenet-val-500"
ESPRESSO, TIGER_CAT = 967, 282
BATCH = 20
RUNTIMES = {  # most points of accuracy, difference of a probability at the median photo, correlation of its map
    "eager, channels first": (RuntimeSpec(channels_last=False), 0.0, 1e-5, 0.99999),
    "compiled": (RuntimeSpec(mode="compile"), 0.0, 1e-5, 0.99999),
    "bf16": (RuntimeSpec(precision="bf16"), 0.2, 0.02, 0.99),
    # The compiler folds normalisation into rounded weights.
    "compiled bf16": (RuntimeSpec(mode="compile", precision="bf16"), 0.4, 0.02, 0.98),
}


@pytest.fixture(scope="module")
def photos():
    if DATA.is_dir():
        return read_photos(DATA)
    paths = [find_file(f"package://skimage/data/{name}.png") for name in ("coffee", "chelsea")]
    return Photos(paths, np.array([ESPRESSO, TIGER_CAT]))


@pytest.fixture(scope="module")
def answer(imagenet, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runtimes")
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(folder)
    settings = read_contents(imagenet).settings

    def answer(runtime):
        """Return every photo's best class, probability of its true class or 0, and map of its true class."""
        changed = replace(settings, runtime=runtime)
        pipeline = load_pipeline(folder, changed, "imagenet", "1.0", torch.device("cpu"))
        assert isinstance(pipeline.network, Split) == (runtime.mode != "eager")
        rows = [
            RawRequest(path.read_bytes(), {"target": str(truth), "evidence": "signed", "top_k": "100"})
            for path, truth in zip(photos.paths, photos.classes)
        ]
        told = [
            json.loads(each.body)
            for start in range(0, len(rows), BATCH)
            for each in pipeline.answer(rows[start : start + BATCH])
        ]
        best = np.array([each["predictions"][0]["index"] for each in told])
        probabilities = np.array([each["explanations"][0]["target"]["probability"] for each in told])
        return best, probabilities, [np.ravel(each["explanations"][0]["grid"]) for each in told]

    return answer


@pytest.fixture(scope="module")
def reference(answer):
    return answer(RuntimeSpec())


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_gives_the_classes_probabilities_and_maps_of_eager_float32(name, answer, reference, photos):
    runtime, points, probability, correlation = RUNTIMES[name]
    (best, known, maps), (was_best, was_known, was_maps) = answer(runtime), reference
    accuracy, was_accuracy = ((each == photos.classes).mean() for each in (best, was_best))
    apart = np.abs(known - was_known)
    alike = np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(maps, was_maps)])
    print(
        f"{name}: {len(best)} photos, accuracy {accuracy:.3f} and {was_accuracy:.3f}, "
        f"{np.sum(best != was_best)} in another class, "
        f"probability apart {np.median(apart):.1e} (most {apart.max():.1e}), "
        f"maps correlate {np.median(alike):.5f} (1 % quantile {np.quantile(alike, 0.01):.5f})"
    )
    assert 100 * abs(accuracy - was_accuracy) <= points + 1e-9
    assert np.median(apart) <= probability
    assert np.median(alike) >= correlation
    assert np.mean(alike >= correlation) >= 0.95
