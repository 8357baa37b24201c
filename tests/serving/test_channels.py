"""Maps of chosen channels, as served."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from camserve.answer.respond import ModelName
from camserve.attribution import backward
from camserve.attribution.capture import Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods import METHODS
from camserve.choices import WEIGHING
from camserve.labels import Labels
from camserve.monitor import Monitor
from camserve.output_spec import line_up
from camserve.serving.load import Classifier
from camserve.serving.pipeline import Pipeline
from camserve.settings import load_settings
from camserve.values import Layer, RawRequest
from small_networks import CLASSES, SHAPE, SIDE, Network, Small, pooled, settle, smooth

POSITIONS = 64


def build(small, methods=WEIGHING, tails=None, **changes):
    settings = load_settings(
        {
            "model": {"factory": "tests:small"},
            "input": {"resize": [SIDE, SIDE], "crop": None, "mean": [0, 0, 0], "std": [1, 1, 1]},
            "layers": [{"name": "features", "grid": [8, 8]}],
            "methods": list(methods),
            **changes,
        }
    )
    heads = line_up(settings.outputs, [Labels([f"class {number}" for number in range(CLASSES)])])
    classifier = Classifier(small.network, heads, torch.device("cpu"), tails or {})
    return Pipeline(classifier, settings, ModelName("small", "1.0", ""), Monitor())


@pytest.fixture(scope="module")
def pipeline():
    return build(smooth())


@pytest.fixture
def photo(chelsea):
    return chelsea


def ask(pipeline, photo, **options):
    return json.loads(pipeline.answer([RawRequest(photo, {"evidence": "signed", **options})])[0].body)


def raw(pipeline, photo, **options):
    (explanation,) = ask(pipeline, photo, **options)["explanations"]
    return np.array(explanation["grid"]) * explanation["scale"], explanation


def hooked(small, photo, pipeline):
    """Activation and weights by autograd itself: of Grad-CAM, for the predicted class."""
    pixels = torch.tensor(pipeline_pixels(photo, pipeline)).permute(2, 0, 1)[None].float() / 255
    activation = small.network.features(pixels).detach().requires_grad_()
    scores = small.network.classifier(activation)
    scores.max().backward()
    return activation.detach()[0].numpy(), activation.grad[0].mean(dim=(1, 2)).numpy()


def pipeline_pixels(photo, pipeline):
    (request,) = pipeline.decode([RawRequest(photo)])
    return request.pixels


def test_the_methods_that_weigh_channels_are_named_once():
    assert {name for name, method in METHODS.items() if method.weights} == set(WEIGHING)


@pytest.mark.parametrize("small", [pooled(), smooth()], ids=["ReLU", "SiLU"])
def test_a_map_of_some_channels_is_their_sum_by_hand(small, photo):
    pipeline = build(small)
    activation, weights = hooked(small, photo, pipeline)
    sizes = np.abs(weights * activation.mean(axis=(1, 2)))
    order = np.argsort(-sizes)
    cases = {
        "1,4": [1, 4],
        "top:2": list(order[:2]),
        f"weights:{float(np.median(weights))}..inf": list(np.flatnonzero(weights >= np.median(weights))),
    }
    for channels, chosen in cases.items():
        found, explanation = raw(pipeline, photo, channels=channels)
        expected = np.einsum("k,khw->hw", weights[chosen], activation[chosen])
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
        found = explanation["of_channels"]
        assert (found["count"], set(found["channels"])) == (len(chosen), set(chosen))
        assert found["channels"] == [channel for channel in order if channel in chosen]
        assert found["share"] == pytest.approx(sizes[chosen].sum() / sizes.sum(), abs=1e-3)
    assert explanation["strength"] is None


def test_the_picture_of_one_channel_is_its_activation(photo):
    small = smooth()
    pipeline = build(small)
    activation, _ = hooked(small, photo, pipeline)
    for target in ("class 0", "class 1"):
        found, explanation = raw(pipeline, photo, channels="activation:3", target=target)
        np.testing.assert_allclose(found, activation[3], atol=2e-4 * np.abs(activation[3]).max())
        assert explanation["of_channels"]["asked"] == "activation:3"
        assert explanation["balance"]["share_of_score"] is None


@pytest.fixture(scope="module")
def linear():
    """An archive whose layer is known to be followed by pooling and one linear layer, which CAM needs."""
    small = smooth()
    head = find_linear_head(small.network, Layer("features", grid=(8, 8)), SHAPE)
    assert head is not None
    return build(small, tails={"features": Tail(head)})


@pytest.mark.parametrize(
    ("archive", "method"),
    [("linear", method) for method in WEIGHING] + [("pipeline", method) for method in WEIGHING if method != "cam"],
)
def test_two_parts_add_up_to_the_whole(request, photo, archive, method):
    opened = request.getfixturevalue(archive)
    whole, _ = raw(opened, photo, method=method)
    one, first = raw(opened, photo, method=method, channels="0,1,2")
    other, second = raw(opened, photo, method=method, channels="3,4,5,6,7")
    np.testing.assert_allclose(one + other, whole, atol=5e-4 * np.abs(whole).max())
    assert first["of_channels"]["share"] + second["of_channels"]["share"] == pytest.approx(1, abs=2e-4)


def test_details_are_of_all_channels_whichever_are_chosen(pipeline, photo):
    (whole,), (part,) = (
        ask(pipeline, photo, details="signs,channels", **chosen)["explanations"] for chosen in ({}, {"channels": "0"})
    )
    assert (part["signs"], part["channels"]) == (whole["signs"], whole["channels"])
    assert len(part["channels"]) == 8


def test_a_channel_that_the_layer_does_not_have_is_refused_alone(pipeline, photo):
    rows = [RawRequest(photo, {"channels": "8"}), RawRequest(photo), RawRequest(photo, {"channels": "top:50"})]
    wrong, plain, many = (json.loads(response.body) for response in pipeline.answer(rows))
    assert wrong["error"]["code"] == "bad_option"
    assert wrong["error"]["message"] == "option 'channels': layer 'features' has channels 0 to 7, not 8"
    assert plain["explanations"][0]["status"] == "ok"
    assert many["explanations"][0]["of_channels"]["count"] == 8
    np.testing.assert_array_equal(many["explanations"][0]["grid"], plain["explanations"][0]["grid"])


def test_a_window_without_channels_is_blank(pipeline, photo):
    (explanation,) = ask(pipeline, photo, channels="weights:1000..2000")["explanations"]
    assert explanation["status"] == "blank"
    assert explanation["of_channels"]["count"] == 0


CHOICES = ("0", "1,2", "top:1", "top:3", "weights:-inf..0", "activation:3", "activation:4", "all")


def counted(monkeypatch, owner, name):
    calls, called = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: (calls.append(1), called(*args))[1])
    return calls


@pytest.mark.parametrize(
    ("method", "owner", "name", "passes"),
    [("gradcam", backward, "pull_back", 1), ("ablationcam", LayerOutput, "rescore", 9)],
)
def test_rows_of_different_choices_share_their_passes(pipeline, photo, monkeypatch, method, owner, name, passes):
    rows = [RawRequest(photo, {"evidence": "signed", "method": method, "channels": choice}) for choice in CHOICES]
    calls = counted(monkeypatch, owner, name)
    together = [json.loads(response.body)["explanations"][0] for response in pipeline.answer(rows)]
    assert len(calls) == passes
    for row, choice in zip(together, CHOICES):
        (alone,) = ask(pipeline, photo, method=method, channels=choice)["explanations"]
        np.testing.assert_allclose(row.pop("grid"), alone.pop("grid"), atol=2e-4)
        assert row.pop("scale") == pytest.approx(alone.pop("scale"), rel=1e-4)
        assert row.get("of_channels") == alone.get("of_channels")
        assert row["balance"] == pytest.approx(alone["balance"], abs=2e-4)


def test_rows_of_different_deadlines_share_their_passes(pipeline, photo, monkeypatch):
    calls = counted(monkeypatch, backward, "pull_back")
    responses = pipeline.answer([RawRequest(photo, {"deadline_ms": 60_000 + number}) for number in range(8)])
    assert {json.loads(response.body)["explanations"][0]["status"] for response in responses} == {"ok"}
    assert len(calls) == 1


class Root(nn.Module):
    """A square root, whose gradient at zero is infinite."""

    def forward(self, values):
        return values.sqrt()


class Dark(nn.Module):
    """Zero in the first columns of channel 5."""

    def __init__(self, columns):
        super().__init__()
        self.columns = columns

    def forward(self, values):
        shown = torch.ones_like(values)
        shown[:, 5, :, : self.columns] = 0
        return values * shown


def rooted(columns):
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Softplus(), Dark(columns))
    classifier = nn.Sequential(Root(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    return Small(settle(Network(features, classifier)), Layer("features"))


@pytest.mark.parametrize("columns", [8, 4], ids=["NaN", "inf"])
def test_evidence_that_is_not_finite_costs_its_own_map_alone(photo, columns):
    pipeline = build(rooted(columns), ["gradcam"])
    asked = [{"channels": "activation:3"}, {"channels": "0,1"}, {}, {"channels": "0,5"}]
    asked += [{"channels": "activation:3", "details": details} for details in ("channels", "signs")]
    answers = [json.loads(row.body) for row in pipeline.answer([RawRequest(photo, options) for options in asked])]
    maps = [answer["explanations"][0] for answer in answers]
    assert [shown["status"] for shown in maps] == ["ok"] * 2 + ["failed"] * 4
    assert [shown["of_channels"]["share"] for shown in maps[:2]] == [None, None]


def warned(pipeline, photo, **options):
    return {warning["code"]: warning["message"] for warning in ask(pipeline, photo, **options)["warnings"]}


def test_an_activation_has_no_warning_about_evidence(photo):
    measures = {"methods": {"gradcam": {"random_weights": 0.92}}}
    small = pooled()
    small.network.classifier[2].weight.data *= 1e4
    layers = [{"name": "features", "grid": [8, 8], "share": 0.4}]
    pipeline = build(small, ["gradcam"], measures=measures, layers=layers)
    codes = {"FAILS_SANITY_CHECK", "SATURATED_SOFTMAX", "PARTIAL_EVIDENCE"}
    assert set(warned(pipeline, photo, channels="0,1")) >= codes
    assert warned(pipeline, photo, channels="activation:1") == {}


def test_what_is_blank_is_said_of_the_channels_that_were_asked_for(photo):
    small = pooled()
    small.network.features[0].bias.data[2] = -1e3  # so that its ReLU is never above zero
    pipeline = build(small, ["gradcam"])
    for evidence in ("for", "signed"):
        message = warned(pipeline, photo, channels="activation:2", evidence=evidence)["NO_POSITIVE_EVIDENCE"]
        assert message.startswith("channel 2 is nowhere ")
        assert "target" not in message
        assert ("evidence=signed" in message) == (evidence == "for")
        message = warned(pipeline, photo, channels="2", evidence=evidence)["NO_POSITIVE_EVIDENCE"]
        assert message.startswith("nothing in the chosen channels ")
