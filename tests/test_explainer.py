"""An explainer in this process gives the answers that an archive of the same network gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode, v2

from camserve import Explainer, errors
from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive
from camserve.build.preprocess.transforms import read_preprocessing
from camserve.build.recipe import load_recipe
from camserve.build.stage_network import stage_network
from camserve.client.answers import read_answer
from camserve.input_spec import InputSpec
from camserve.values import RawRequest
from model_file import quiet, write_pets
from small_networks import Network, settle

SMALL = {"resize": 64, "crop": 64}
METHODS = ("gradcam", "layercam")
NAMES = ["cup", "cat", "dog", "bird", "tree"]


def of_request(answer):
    return {name: value for name, value in answer.items() if name not in ("model", "request_id")}


def small_network():
    """A network of few operations: an explainer passes through it seventy times before it is ready."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 16, 3, stride=4, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
    )
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(NAMES)))
    return settle(Network(features, classifier)).train()


@pytest.fixture(scope="module")
def explainer():
    return Explainer(small_network(), NAMES, SMALL, report=quiet)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The explainer of a network, and the pipeline of its archive."""
    folder = tmp_path_factory.mktemp("twins")
    recipe = replace(load_recipe(write_pets(folder)), methods=METHODS)
    network, _ = stage_network(recipe, folder, recipe.preprocess.shape, quiet)
    samples = [find_file(sample) for sample in recipe.samples]
    own = Explainer(network, recipe.labels, recipe.preprocess, methods=METHODS, samples=samples, report=quiet)
    with open_archive(build_archive(recipe, folder, quiet, fresh_process=False)) as pipeline:
        yield own, pipeline


@pytest.mark.parametrize(
    "options",
    [{}, {"target": ["dog", "index:2"], "contrast": "next"}, {"evidence": "signed", "format": "grid,overlay"}],
)
def test_the_answer_is_that_of_an_archive(twins, coffee, options):
    own, pipeline = twins
    fields = {name: json.dumps(value) if isinstance(value, list) else value for name, value in options.items()}
    for method in METHODS:
        (response,) = pipeline.answer([RawRequest(coffee, {"explain": True, "method": method, **fields})])
        expected = json.loads(response.body)
        found = own(coffee, method=method, **options)
        assert of_request(found.raw) == of_request(expected)
        assert read_answer(expected, coffee).explanations == found.explanations


@pytest.mark.parametrize("fast", [True, False])
def test_the_map_is_captums(coffee, fast):
    from captum.attr import LayerGradCam

    network = small_network().eval()
    explainer = Explainer(network, NAMES, SMALL, fast=fast, report=quiet)
    assert explainer.layer == "features"
    explanation = explainer(coffee, target=1).explanations[0]
    spec = InputSpec(**SMALL)
    pixels = _pixels(coffee, spec)
    theirs = LayerGradCam(network, network.features).attribute(pixels, 1, relu_attributions=True)[0, 0].detach().numpy()
    assert 0 < theirs.min() < 0.9 * theirs.max()
    np.testing.assert_allclose(explanation.grid * explanation.scale, theirs, atol=1e-4 * theirs.max())


def _pixels(photo, spec):
    from camserve.intake.accept import read_pixels
    from camserve.intake.preprocess import normalise
    from camserve.settings import Limits

    return normalise([read_pixels(photo, spec, Limits())], spec, torch.device("cpu")).contiguous()


def test_the_layer_and_what_was_assumed_are_said(coffee):
    lines = []
    explainer = Explainer(small_network(), NAMES, SMALL, methods=["gradcam", "attention"], report=lines.append)
    assert any(line.startswith("target layer features") for line in lines)
    assert "method attention is left out: it does not work on this network" in lines
    assert list(explainer.describe()["methods"]) == ["gradcam"]


def test_the_network_stays_as_it_is(coffee):
    network = small_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    explainer = Explainer(network, NAMES, SMALL, report=quiet)
    first = explainer(coffee)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        network.classifier[2].weight.zero_()
    assert explainer(coffee).predictions == first.predictions


def test_photos_are_answered_in_order_with_errors_in_their_places(explainer, coffee, chelsea):
    answers = list(explainer.explain_many([coffee, b"x", chelsea, "no/such.jpg"] * 2, batch=3, top_k=1))
    kinds = ["Answer", "UnsupportedFormat", "Answer", "ConfigError"] * 2
    assert [type(answer).__name__ for answer in answers] == kinds
    alone = explainer(coffee, top_k=1).explanations[0]
    for answer in (answers[0], answers[4]):  # in a batch numbers are summed in another order
        np.testing.assert_allclose(answer.explanations[0].grid, alone.grid, atol=1e-3)
        assert answer.explanations[0].target.label == alone.target.label
    for wrong in (coffee, "photos"):
        with pytest.raises(errors.ConfigError, match="iterable of photos"):
            next(explainer.explain_many(wrong))


class Frozen(nn.Module):
    """A network whose code lets no gradient pass."""

    def __init__(self):
        super().__init__()
        self.network = small_network()

    def forward(self, pixels):
        with torch.no_grad():
            return self.network(pixels)


def test_a_network_without_gradients_is_explained_without_them(coffee):
    lines = []
    explainer = Explainer(Frozen(), NAMES, SMALL, report=lines.append)
    assert explainer(coffee).explanations[0].method == "reciprocam"
    assert any("no gradient of the scores reaches" in line for line in lines)


def test_labels_of_weights_are_for_their_own_classes_alone(coffee):
    lines = []
    explainer = Explainer(small_network(), preprocess=models.ResNet18_Weights.DEFAULT, report=lines.append)
    assert "labels of the weights are left out: 1000 for 5 classes; give labels" in lines
    assert explainer(coffee).predictions[0].label.startswith("class ")


def test_it_answers_where_gradients_are_off(explainer, coffee):
    expected = explainer(coffee).explanations
    with torch.no_grad():
        assert explainer(coffee).explanations == expected
    with torch.inference_mode():
        assert explainer(coffee).explanations == expected
        assert Explainer(small_network(), NAMES, SMALL, report=quiet)(coffee).explanations == expected


def test_a_refusal_is_raised(explainer, coffee):
    with pytest.raises(errors.UnknownClass):
        explainer(coffee, target="cuppp")


@pytest.mark.parametrize(
    ("network", "options", "said"),
    [
        (lambda: "resnet", {}, "a torch.nn.Module is explained, not a str"),
        (lambda: nn.Flatten(), {}, r"target layer|scores|output"),
        (small_network, {"labels": ["a"]}, "labels: 1 names? for 5 classes"),
        (small_network, {"preprocess": None}, "preprocess is missing"),
        (small_network, {"methods": ["gradcamm"]}, "did you mean 'gradcam'"),
        (small_network, {"layer": "layer5"}, "layer5"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_line(network, options, said):
    with pytest.raises(errors.ConfigError, match=said) as caught:
        Explainer(network(), **{"labels": NAMES, "preprocess": SMALL, **options}, report=quiet)
    assert "\n" not in str(caught.value)


def test_weights_bring_preprocessing_and_labels():
    weights = models.ResNet18_Weights.DEFAULT
    found = read_preprocessing(weights, quiet)
    assert (found.spec, found.transform) == (InputSpec(), None)
    assert found.labels == weights.meta["categories"]


def compose(*steps):
    ends = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    return v2.Compose([*steps, *ends])


@pytest.mark.parametrize(
    ("transform", "keys"),
    [
        (models.ResNet50_Weights.DEFAULT.transforms(), {"resize": 232}),
        (
            compose(v2.Resize(72, InterpolationMode.BICUBIC), v2.CenterCrop(64)),
            {"resize": 72, "crop": (64, 64), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.25,) * 3},
        ),
        (compose(v2.Resize((64, 48))), {"resize": (64, 48), "crop": None, "mean": (0.5,) * 3, "std": (0.25,) * 3}),
    ],
)
def test_a_transform_that_keys_can_say_is_written_as_keys(transform, keys):
    found = read_preprocessing(transform, quiet)
    assert found.transform is None
    assert found.spec == replace(InputSpec(), **keys)


def test_another_transform_is_run_as_it_is(coffee):
    lines = []
    transform = v2.Compose(
        [v2.Resize((64, 64)), v2.GaussianBlur(3, 1.0), v2.ToImage(), v2.ToDtype(torch.float32, True)]
    )
    found = read_preprocessing(transform, lines.append)
    assert (found.transform, found.spec.size) == (transform, (64, 64))
    explainer = Explainer(small_network(), NAMES, transform, report=quiet)
    assert explainer(coffee).input.region == (0, 0, 600, 400)

    def left_half(picture):
        half = picture.crop((0, 0, picture.width // 2, picture.height))
        return np.asarray(half.resize((64, 64)), np.float32).transpose(2, 0, 1) / 255, (0, 0, half.width, half.height)

    assert Explainer(small_network(), NAMES, left_half, report=quiet)(coffee).input.region == (0, 0, 300, 400)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (compose(v2.RandomCrop(64)), "random"),
        (compose(v2.Resize(64)), "of one size, not"),
        (compose(v2.Resize((64, 64)), v2.Pad(2), v2.CenterCrop(40)), "the transform crops"),
        (lambda picture: 1 / 0, "the transform fails: ZeroDivisionError"),
        (lambda picture: np.zeros((64, 64), np.float32), "of one size, not"),
        (7, "not a int"),
        ("imagenette", "neither 'imagenet' nor torchvision weights"),
        ({"resise": 3}, "unknown key 'resise'; did you mean 'resize'"),
    ],
)
def test_a_transform_that_would_mislead_is_refused(transform, said):
    with pytest.raises(errors.ConfigError, match=said) as caught:
        read_preprocessing(transform, quiet)
    assert "\n" not in str(caught.value)
