"""Every warning about a map is raised by a real case of what it warns of."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from camserve.answer.respond import ModelName
from camserve.attribution.capture import Tail
from camserve.attribution.find_head import find_linear_head
from camserve.labels import Labels
from camserve.monitor import Monitor
from camserve.output_spec import line_up
from camserve.serving.load import Classifier
from camserve.serving.pipeline import Pipeline
from camserve.settings import load_settings
from camserve.values import Layer, RawRequest

SIDE = 16


class Pooled(nn.Module):
    """Two layers with a spatial extent, pooling, and one linear layer."""

    def __init__(self, weight):
        super().__init__()
        self.fine = nn.AvgPool2d(2)
        self.coarse = nn.AvgPool2d(2)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = torch.tensor(weight, dtype=torch.float32)

    def forward(self, pixels):
        return self.head(self.coarse(self.fine(pixels)).mean(dim=(2, 3)))


def build(weight, mean=0.0, methods=("gradcam",), **changes):
    settings = load_settings(
        {
            "model": {"factory": "tests:Pooled"},
            "input": {"resize": [SIDE, SIDE], "crop": None, "mean": [mean] * 3, "std": [1, 1, 1]},
            "layers": [{"name": "coarse", "grid": [4, 4]}, {"name": "fine", "grid": [8, 8]}],
            "methods": list(methods),
            **changes,
        }
    )
    network = Pooled(weight).eval()
    head = find_linear_head(network, Layer("coarse", grid=(4, 4)), (3, SIDE, SIDE))
    assert head is not None
    tails = {"coarse": Tail(head)}
    classifier = Classifier(
        network, line_up(settings.outputs, [Labels(["red", "green", "blue"])]), torch.device("cpu"), tails
    )
    return Pipeline(classifier, settings, ModelName("pooled", "1.0", ""), Monitor())


def explain(pipeline, photo, **options):
    answer = json.loads(pipeline.answer([RawRequest(photo, options)])[0].body)
    assert "error" not in answer, answer
    return answer["explanations"], [warning["code"] for warning in answer["warnings"]]


@pytest.fixture
def photo(encoded):
    return encoded(SIDE, SIDE, color=(60, 120, 30))


EYE = np.eye(3).tolist()


def test_a_plain_map_carries_no_warning_and_accounts_for_the_whole_score(photo):
    (explanation,), codes = explain(build(EYE), photo)
    assert codes == []
    assert explanation["balance"] == {"positive": 1, "negative": 0, "share_of_score": pytest.approx(1, abs=1e-3)}


def test_nothing_that_speaks_for_the_class_is_a_warning(photo):
    (explanation,), codes = explain(build((-np.eye(3)).tolist()), photo)
    assert explanation["status"] == "blank"
    assert codes == ["NO_POSITIVE_EVIDENCE"]


def test_a_saturated_softmax_is_a_warning_and_the_map_is_not_blank(photo):
    (explanation,), codes = explain(build((np.eye(3) * 1000).tolist()), photo)
    assert explanation["target"]["probability"] == 1
    assert explanation["status"] == "ok"
    assert codes == ["SATURATED_SOFTMAX"]


def test_two_negatives_that_make_evidence_are_a_warning(photo):
    (explanation,), codes = explain(build((-np.eye(3)).tolist(), mean=1.0), photo, details="signs")
    assert explanation["status"] == "ok"
    assert explanation["signs"] == {"pp": 0, "pn": 0, "np": 0, "nn": 1}
    assert codes == ["DOUBLE_NEGATIVE"]


def test_weights_above_0_alone_make_no_evidence_of_two_negatives(photo):
    weight = [[1.0, -1.0, -1.0], *np.eye(3)[1:].tolist()]
    pipeline = build(weight, mean=0.3, methods=["gradcam", "gradcam+"])
    (explanation,), codes = explain(pipeline, photo, method="gradcam", target="red", details="signs")
    assert explanation["signs"]["nn"] > 0.3
    assert "DOUBLE_NEGATIVE" in codes
    _, codes = explain(pipeline, photo, method="gradcam+", target="red", evidence="signed")
    assert codes == []


@pytest.mark.parametrize(("correlation", "fails"), [(0.92, True), (0.11, False), (None, False)])
def test_a_method_whose_maps_stay_as_they_are_under_random_weights_is_a_warning(photo, correlation, fails):
    measures = {"methods": {"gradcam": {"random_weights": correlation}}}
    for layer in ("coarse", "fine"):
        _, codes = explain(build(EYE, measures=measures), photo, layer=layer)
        assert ("FAILS_SANITY_CHECK" in codes) == fails


@pytest.mark.parametrize(("usual", "codes"), [(0.2, ["DOUBLE_NEGATIVE"]), (0.9, ["DOUBLE_NEGATIVE"]), (1.0, [])])
def test_a_network_whose_maps_are_always_double_negative_has_no_such_warning(photo, usual, codes):
    measures = {"methods": {"gradcam": {"double_negative": usual}}}
    assert explain(build((-np.eye(3)).tolist(), mean=1.0, measures=measures), photo)[1] == codes


@pytest.mark.parametrize("evidence", ["for", "against", "signed"])
def test_the_evidence_of_negative_weights_is_signed_and_not_blank_behind_a_relu(photo, evidence):
    weight = [[1.0, -2.0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    (explanation,), codes = explain(
        build(weight, methods=["gradcam", "gradcam-"]), photo, method="gradcam-", target="red", evidence=evidence
    )
    assert (explanation["status"], explanation["evidence"], codes) == ("ok", "signed", [])
    assert np.array(explanation["grid"]).max() == -1
    assert explanation["scale"] == pytest.approx(2 * 120 / 255 / 16, rel=1e-3)


def test_channels_are_named_strongest_first(photo):
    weight = [[1.0, 0, 0], [0.5, 2.0, -4.0], [0, 0, 1.0]]
    (explanation,), _ = explain(build(weight), photo, target="green", details="channels")
    channels = explanation["channels"]
    assert [channel["channel"] for channel in channels] == [1, 2, 0]
    contributions = [2 * 120 / 255, -4 * 30 / 255, 0.5 * 60 / 255]
    assert [channel["contribution"] for channel in channels] == pytest.approx(contributions, rel=1e-3)
    assert sum(channel["share"] for channel in channels) == pytest.approx(1, abs=1e-4)


def test_a_method_that_fails_costs_its_map_alone(photo):
    pipeline = build(EYE, methods=["gradcam", "vit_reciprocam"])
    (good, bad), codes = explain(pipeline, photo, method="gradcam,vit_reciprocam")
    assert (good["status"], bad["status"]) == ("ok", "failed")
    assert "EXPLANATION_FAILED" in codes


def test_the_maps_of_several_layers_are_fused_on_the_finest_grid(photo):
    (explanation,), _ = explain(build(EYE, methods=["layercam"]), photo, layer="coarse,fine", method="layercam")
    assert explanation["layer"] == "coarse+fine"
    assert np.array(explanation["grid"]).shape == (8, 8)


def test_contrast_and_five_targets_share_one_forward_pass(photo):
    pipeline = build(EYE)
    passes = []
    handle = pipeline.network.register_forward_hook(lambda *_: passes.append(1))
    explain(pipeline, photo, target="top:3", contrast="next", evidence="signed")
    handle.remove()
    assert len(passes) == 1
