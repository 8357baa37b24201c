"""Each row stands alone: whatever one of them is, its neighbours are answered as if it were not there."""

import base64
import json
import os
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camserve.answer.respond import ModelName
from camserve.build.mar.unpack import open_archive
from camserve.labels import Labels
from camserve.monitor import Monitor
from camserve.network.output import ScoringNetwork
from camserve.output_spec import line_up
from camserve.serving.heap import trim_heap
from camserve.serving.load import Classifier
from camserve.serving.pipeline import Pipeline
from camserve.serving.warm_up import warm_up
from camserve.values import RawRequest
from colour_pipeline import build


@pytest.fixture
def pipeline():
    return build()


@pytest.fixture
def photo(encoded):
    return lambda *color: encoded(16, 16, color=color)


def ask(pipeline, *rows):
    return [(answer.status, json.loads(answer.body)) for answer in pipeline.answer(list(rows))]


def test_an_answer_has_the_shape_of_the_contract(pipeline, photo):
    ((status, answer),) = ask(pipeline, RawRequest(photo(51, 204, 102), request_id="abc"))
    assert status == 200
    assert answer["model"] == {"name": "colours", "version": "1.0", "weights": "sha256:0123"}
    assert answer["request_id"] == "abc"
    assert answer["input"] == {"width": 16, "height": 16, "format": "PNG", "region": [0, 0, 16, 16]}
    assert [prediction["label"] for prediction in answer["predictions"]] == ["green", "blue", "red"]
    assert answer["predictions"][0]["score"] == 0.8
    (explanation,) = answer["explanations"]
    assert explanation["target"]["asked"] == "predicted"
    assert explanation["grid"] == [[1.0] * 4] * 4
    assert explanation["scale"] == pytest.approx(0.8 / 16)
    assert explanation["balance"]["positive"] == 1
    assert answer["warnings"] == []


def test_the_map_of_a_requested_class_is_its_own(pipeline, encoded):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:4, 4:8, 0] = 100
    pixels[8:12, 12:, 1] = 200
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    ((_, answer),) = ask(pipeline, RawRequest(buffer.getvalue(), {"target": "red,green"}))
    red, green = (np.array(explanation["grid"]) for explanation in answer["explanations"])
    assert red[0, 1] == 1
    assert red.sum() == 1
    assert green[2, 3] == 1
    assert green.sum() == 1


def test_bad_rows_fail_alone_and_good_rows_are_unchanged(pipeline, photo):
    good = RawRequest(photo(10, 20, 30), {"target": "top:2"})
    (_, alone), *_ = ask(pipeline, good)
    rows = [
        good,
        RawRequest(b"nothing"),
        RawRequest(photo(255, 255, 255)),  # the network raises on it
        good,
        RawRequest(photo(0, 0, 0)),  # the network's scores are not finite
        RawRequest(photo(9, 9, 9), {"explain": "false"}),
        RawRequest(photo(9, 9, 9), {"target": "purple"}),
        RawRequest(None),
        good,
    ]
    answers = ask(pipeline, *rows)
    assert [status for status, _ in answers] == [200, 415, 500, 200, 500, 200, 400, 400, 200]
    codes = {number: answers[number][1]["error"]["code"] for number in (1, 2, 4, 6, 7)}
    expected = ["unsupported_format", "model_failed", "model_failed", "unknown_class", "missing_image"]
    assert list(codes.values()) == expected
    assert answers[0][1] == answers[3][1] == answers[8][1] == alone
    assert answers[5][1]["explanations"] == []


def test_evidence_that_is_not_there_is_said_not_hidden(pipeline, photo):
    pipeline.network.head.weight.data *= -1
    ((_, answer),) = ask(pipeline, RawRequest(photo(50, 60, 70)))
    (explanation,) = answer["explanations"]
    assert explanation["status"] == "blank"
    assert explanation["scale"] == 0
    assert np.array(explanation["grid"]).sum() == 0
    assert explanation["balance"]["positive"] == 0
    assert [(one["code"], one["explanation"]) for one in answer["warnings"]] == [("NO_POSITIVE_EVIDENCE", 0)]
    assert "speaks for the target" in answer["warnings"][0]["message"]
    ((_, against),) = ask(pipeline, RawRequest(photo(50, 60, 70), {"evidence": "against"}))
    assert against["explanations"][0]["status"] == "ok"
    pipeline.network.head.weight.data *= -1
    ((_, nothing),) = ask(pipeline, RawRequest(photo(50, 60, 70), {"evidence": "against"}))
    assert nothing["explanations"][0]["status"] == "blank"
    assert "speaks against the target" in nothing["warnings"][0]["message"]
    pipeline.network.head.weight.data *= -1
    ((_, signed),) = ask(pipeline, RawRequest(photo(50, 60, 70), {"evidence": "signed"}))
    assert np.array(signed["explanations"][0]["grid"]).min() == -1


@pytest.mark.parametrize("name", ["heatmap", "overlay"])
def test_a_signed_map_without_negative_values_is_drawn_with_the_diverging_palette(pipeline, encoded, name):
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[:40, 40:80] = (100, 0, 0)
    pixels[80:] = (0, 100, 200)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    options = {"target": "red", "evidence": "signed", "format": f"grid,{name}", "opacity": "1"}
    ((_, answer),) = ask(pipeline, RawRequest(buffer.getvalue(), options))
    (explanation,) = answer["explanations"]
    assert np.array(explanation["grid"]).min() == 0
    drawn = np.asarray(Image.open(BytesIO(base64.b64decode(explanation["images"][name].partition(",")[2]))), int)
    without_evidence = drawn[120, 120]  # white in a heatmap, the photo's own grey in an overlay
    assert np.ptp(without_evidence) < 12
    assert (without_evidence.min() > 230) == (name == "heatmap")


def test_a_contrast_is_the_difference_of_two_classes(pipeline, photo):
    ((_, answer),) = ask(pipeline, RawRequest(photo(50, 100, 200), {"contrast": "next", "evidence": "signed"}))
    (explanation,) = answer["explanations"]
    assert explanation["target"]["label"] == "blue"
    assert explanation["contrast"]["label"] == "green"
    assert explanation["scale"] == pytest.approx(100 / 255 / 16, rel=1e-4)


@pytest.mark.parametrize(
    ("condition", "explained"),
    [
        ("probability<0.9", True),
        ("probability>0.9", False),
        ("margin<=0.5", True),
        ("margin>=0.5", False),
        ("label=blue", True),
        ("label!=blue", False),
    ],
)
def test_a_condition_decides_on_the_prediction(pipeline, photo, condition, explained):
    ((_, answer),) = ask(pipeline, RawRequest(photo(50, 100, 200), {"explain": condition}))
    (explanation,) = answer["explanations"]
    assert explanation["status"] == ("ok" if explained else "skipped")
    assert (explanation["grid"] is not None) == explained


def test_a_condition_on_one_of_two_classes_of_one_name_is_about_that_class(photo):
    pipeline = build(["blue", "green", "blue"])
    for condition, status in (("label=index:2", "ok"), ("label=index:0", "skipped"), ("label!=index:0", "ok")):
        ((_, answer),) = ask(pipeline, RawRequest(photo(50, 100, 200), {"explain": condition}))
        assert answer["explanations"][0]["status"] == status
    ((code, answer),) = ask(pipeline, RawRequest(photo(50, 100, 200), {"explain": "label=blue"}))
    assert code == 400
    assert "ambiguous: ask for one of index:0, index:2" in answer["error"]["message"]


def test_an_answer_that_is_too_long_loses_its_pictures_first_and_says_so(photo):
    pipeline = build(limits={"max_response_bytes": 1500})
    ((_, answer),) = ask(pipeline, RawRequest(photo(50, 100, 200), {"format": "grid,overlay"}))
    assert answer["explanations"][0]["images"] == {}
    assert answer["explanations"][0]["grid"]
    assert [warning["code"] for warning in answer["warnings"]] == ["OPTION_REDUCED"]


def test_pictures_come_as_data_uris_and_timing_on_request(pipeline, photo):
    options = {"format": "overlay,heatmap,boxes", "details": "timing"}
    ((_, answer),) = ask(pipeline, RawRequest(photo(50, 100, 200), options))
    (explanation,) = answer["explanations"]
    assert set(explanation["images"]) == {"overlay", "heatmap"}
    assert all(uri.startswith("data:image/jpeg;base64,/9j/") for uri in explanation["images"].values())
    assert explanation["boxes"] == [[0, 0, 16, 16]]
    assert explanation["grid"] is None
    assert {"decode", "preprocess", "forward", "explain"} <= set(answer["timing_ms"])


def test_boxes_follow_the_threshold_that_a_request_gives(pipeline):
    rows = np.full((16, 16, 3), 90, np.uint8)
    rows[:4, :4] = 230
    picture = BytesIO()
    Image.fromarray(rows).save(picture, "PNG")
    found = [
        ask(pipeline, RawRequest(picture.getvalue(), {"format": "boxes", "target": "red", **options}))[0][1]
        for options in ({}, {"box_threshold": "0.9"})
    ]
    whole, part = (answer["explanations"][0]["boxes"][0] for answer in found)
    assert whole == [0, 0, 16, 16]
    assert (part[2] - part[0]) * (part[3] - part[1]) < 16 * 16 / 2


def test_a_legend_stands_below_the_picture_and_says_what_one_stands_for(pipeline, photo):
    def picture(**options):
        options = {"size": "224", **options}
        (answer,) = pipeline.answer([RawRequest(photo(50, 100, 200), options, {"accept": "image/png"})])
        return Image.open(BytesIO(answer.body))

    bare, framed = picture(), picture(legend="true")
    assert framed.crop((0, 0, *bare.size)).tobytes() == bare.tobytes()
    captions = {options: picture(legend="true", **dict([options])).tobytes() for options in CAPTIONS}
    assert len(set(captions.values())) == len(CAPTIONS)


def test_a_caption_says_what_was_asked(pipeline, photo):
    def picture(**options):
        options = {"size": "224", **options}
        (answer,) = pipeline.answer([RawRequest(photo(50, 100, 200), options, {"accept": "image/png"})])
        return Image.open(BytesIO(answer.body))

    bare, legend, captioned = picture(), picture(legend="true"), picture(caption="true")
    assert captioned.crop((0, 0, *bare.size)).tobytes() == bare.tobytes()
    bar = legend.crop((0, bare.height, *legend.size))
    below = captioned.crop((0, captioned.height - bar.height, *captioned.size))
    assert (np.asarray(below)[:40, :130] == np.asarray(bar)[:40, :130]).all()  # the bar's left half
    asked = (*CAPTIONS, ("evidence", "against"), ("evidence", "signed"))
    assert len({picture(caption="true", **dict([option])).tobytes() for option in asked}) == len(asked)


CAPTIONS = (("target", "red"), ("target", "blue"), ("contrast", "blue"), ("compat", "pytorch-grad-cam"))


def test_the_network_is_given_back_as_it_was(pipeline, photo):
    network = pipeline.network
    ask(pipeline, RawRequest(photo(50, 100, 200)), RawRequest(photo(255, 255, 255)))
    assert not network.pool._forward_hooks
    assert network.head.weight.requires_grad
    assert network.head.weight.grad is None


def test_a_multilabel_row_is_explained_for_every_class_above_the_threshold(photo):
    pipeline = build(outputs=[{"task": "multilabel", "threshold": 0.6}])
    ((_, answer),) = ask(pipeline, RawRequest(photo(50, 200, 150)))
    assert [explanation["target"]["label"] for explanation in answer["explanations"]] == ["green", "blue"]
    assert answer["predictions"][0]["probability"] == pytest.approx(1 / (1 + np.exp(-200 / 255)), abs=1e-5)
    ((_, dark),) = ask(pipeline, RawRequest(photo(5, 9, 7)))
    assert [explanation["target"]["label"] for explanation in dark["explanations"]] == ["green"]


class OneLogit(nn.Module):
    """One logit: red less blue."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    def forward(self, pixels):
        pooled = self.pool(pixels).mean(dim=(2, 3))
        return (pooled[:, 0] - pooled[:, 2])[:, None]


def test_a_one_logit_network_is_explained_for_and_against(photo):
    settings = build(outputs=[{"task": "binary"}]).settings
    network = ScoringNetwork(OneLogit().eval(), *settings.outputs)
    classifier = Classifier(network, line_up(settings.outputs, [Labels(["cold", "warm"])]), torch.device("cpu"), {})
    pipeline = Pipeline(classifier, settings, ModelName("one", "1.0", ""), Monitor())
    ((_, answer),) = ask(pipeline, RawRequest(photo(200, 0, 100), {"target": "warm,cold"}))
    warm, cold = answer["predictions"]
    logit = 100 / 255
    assert (warm["label"], cold["label"]) == ("warm", "cold")
    assert warm["score"] == -cold["score"] == pytest.approx(logit, abs=1e-4)
    assert warm["probability"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert warm["probability"] + cold["probability"] == pytest.approx(1)
    assert answer["explanations"][0]["status"] == "ok"
    assert answer["explanations"][1]["status"] == "blank"


def test_a_reduced_jpeg_changes_its_answer_by_less_than_the_stated_tolerance(imagenet, coffee, chelsea):
    """Photos of 9 Mpx and 5 Mpx, which are decoded at a quarter of their size."""
    grain = np.random.default_rng(1).normal(0, 8, (300, 300, 3)).astype(np.int16)  # as a camera's
    with open_archive(imagenet) as pipeline:
        for photo in (coffee, chelsea):
            image = Image.open(BytesIO(photo)).convert("RGB")
            large = image.resize((image.width * 6, image.height * 6), Image.Resampling.LANCZOS)
            tiled = np.tile(grain, (large.height // 300 + 1, large.width // 300 + 1, 1))[: large.height, : large.width]
            large = Image.fromarray(np.clip(np.asarray(large) + tiled, 0, 255).astype(np.uint8))
            jpeg, bmp = BytesIO(), BytesIO()
            large.save(jpeg, "JPEG", quality=92)
            Image.open(jpeg).save(bmp, "BMP")  # the same pixels, of which no decoder leaves any out
            rows = [RawRequest(file.getvalue(), {"format": "grid,boxes"}) for file in (jpeg, bmp)]
            pipeline.settings = replace(pipeline.settings, limits=replace(pipeline.settings.limits, max_bytes=10**8))
            (_, reduced), (_, whole) = ask(pipeline, *rows)
            assert reduced["predictions"] != whole["predictions"]
            exactly = replace(pipeline.settings, input=replace(pipeline.settings.input, exact=True))
            usual, pipeline.settings = pipeline.settings, exactly
            ((_, exact),) = ask(pipeline, rows[0])
            pipeline.settings = usual
            assert {**exact, "input": None} == {**whole, "input": None}
            assert reduced["input"]["region"] == whole["input"]["region"]
            got, wanted = reduced["predictions"][0], whole["predictions"][0]
            assert got["index"] == wanted["index"]
            assert got["probability"] == pytest.approx(wanted["probability"], abs=0.01)
            grids = [np.array(answer["explanations"][0]["grid"]) for answer in (reduced, whole)]
            assert np.abs(grids[0] - grids[1]).max() < 0.02


@pytest.mark.parametrize(("most", "run"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])])
def test_a_warm_pipeline_has_run_the_smallest_and_the_largest_batch_and_doublings(pipeline, most, run):
    sizes = []
    handle = pipeline.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    warm_up(pipeline, most)
    handle.remove()
    assert sizes == run


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no Linux")
def test_free_memory_below_what_is_in_use_is_given_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytes([1]) * (50_000 + number) for number in range(2000)]
    above = bytes([1]) * 50_000
    del blocks
    before = resident()
    trim_heap()
    assert before - resident() > 50_000_000
    assert above


def test_rows_that_are_decoded_ahead_get_the_same_answers(pipeline, photo):
    rows = [RawRequest(photo(50, 100, 200)), RawRequest(b"no picture"), RawRequest(photo(200, 100, 50), {"top_k": "x"})]
    ahead = pipeline.complete(rows, pipeline.decode(rows))
    assert [response.body for response in ahead] == [response.body for response in pipeline.answer(rows)]
    assert [response.status for response in ahead] == [200, 415, 400]


def test_the_time_of_rows_that_waited_for_others_begins_when_they_are_answered(pipeline, photo, monkeypatch):
    rows = [RawRequest(photo(50, 100, 200), {"deadline_ms": "60000"})]
    decoded, now = pipeline.decode(rows), time.monotonic
    monkeypatch.setattr("time.monotonic", lambda: now() + 120)
    (response,) = pipeline.complete(rows, decoded)
    assert [shown["status"] for shown in json.loads(response.body)["explanations"]] == ["ok"]
