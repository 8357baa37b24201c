"""Scores of one's own: code that asks the network, with the context of each row."""

import re
from dataclasses import replace

import numpy as np
import pytest

from camserve.build.mar.unpack import open_archive
from camserve.errors import ConfigError
from camserve.monitor.audit import Audit
from camserve.serving.description import describe_model
from camserve.settings import AuditSpec
from monitoring_parts import collect
from output_archives import ask, build_outputs, gradcam_by_hand, network_of, pixels_of
from synthetic_photos import photo

# Each score times one more than the letters of the context; whoever is asked for a secret refuses.
SCORE = """

def ask(network, pixels, contexts):
    assert isinstance(network, Net)
    if "secret" in contexts:
        raise ValueError("no secrets")
    return network(pixels) * torch.tensor([1.0 + len(context) for context in contexts])[:, None]


def label(network, pixels, contexts):
    scores = ask(network, pixels, contexts)
    return {"words": scores[:, :3], "sure": scores[:, 3:].softmax(1)}
"""
PHOTOS = [photo(number) for number in range(4)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    archive = build_outputs(folder, "scores", more_code=SCORE, score="net:ask", methods=["gradcam", "reciprocam"])
    with open_archive(archive) as opened:
        yield opened


def test_each_row_of_a_batch_is_asked_with_its_own_context(pipeline):
    contexts = ["", "abc", "[a", " b "]
    answers = ask(pipeline, *PHOTOS, context=contexts, target="top:2", top_k=6)
    for body, context, answer in zip(PHOTOS, contexts, answers):
        factor, pixels = 1 + len(context), pixels_of(body, pipeline.settings.input)
        expected = (network_of("scores")(pixels)[0] * factor).detach()
        for entry in answer["predictions"]:
            assert entry["score"] == pytest.approx(expected[entry["index"]].item(), rel=1e-4, abs=1e-4)
            assert entry["probability"] == pytest.approx(expected.softmax(0)[entry["index"]].item(), abs=1e-5)
        for explanation in answer["explanations"]:
            by_hand = gradcam_by_hand(network_of("scores"), pixels, {explanation["target"]["index"]: factor})
            found = np.array(explanation["grid"]) * explanation["scale"]
            assert np.abs(found - by_hand).max() <= 1e-4 * max(by_hand.max(), 1e-9)


def test_a_method_that_runs_the_tail_again_keeps_the_contexts(pipeline):
    (short,), (long,) = (ask(pipeline, PHOTOS[0], method="reciprocam", context=context) for context in ("", "abc"))
    scales = [answer["explanations"][0]["scale"] for answer in (short, long)]
    assert scales[1] == pytest.approx(4 * scales[0], rel=1e-3)


def test_a_context_that_the_code_refuses_costs_its_row_alone(pipeline):
    refused, answered = ask(pipeline, *PHOTOS[:2], context=["secret", "open"])
    assert refused["error"]["code"] == "bad_option"
    assert refused["error"]["message"] == "option 'context' is refused by the model: 'no secrets'"
    assert "error" not in answered


REFUSED = {
    "takes a text of at most 1024 bytes": "é" * 513,
    "takes a text": {"a": 1},
    "is not UTF-8 text": b"\xff",
}


def test_a_context_that_is_no_short_text_is_refused(pipeline):
    for message, context in REFUSED.items():
        (answer,) = ask(pipeline, PHOTOS[0], context=context)
        assert message in answer["error"]["message"]
    assert "error" not in ask(pipeline, PHOTOS[0], context="é" * 512)[0]
    assert describe_model(pipeline.model, pipeline.heads, pipeline.settings)["takes_context"] is True


def test_maps_of_another_context_are_not_compared_with_the_baseline(pipeline):
    (usual,) = collect(pipeline, PHOTOS)
    assert all(usual.signal_inputs.compared)
    map_filter = pipeline.monitor.map_filter
    request, explanation = usual.requests[0], usual.signal_inputs.compared[0]
    best = explanation.target.prediction.index
    assert map_filter.accepts(request, explanation, best)
    other = replace(request, options=replace(request.options, context="abc"))
    assert not map_filter.accepts(other, explanation, best)


def test_no_context_is_written_to_the_audit_log(pipeline, tmp_path):
    audit = Audit(AuditSpec(str(tmp_path), rate=1.0), {"name": "n", "version": "1", "weights": ""}, lambda: None)
    pipeline.monitor.report_to(audit)
    assert "error" not in ask(pipeline, PHOTOS[0], context="who is this")[0]
    pipeline.monitor.report_to()
    audit.close()
    (log,) = tmp_path.iterdir()
    assert '"ok"' in log.read_text()
    assert "who is this" not in log.read_text()


def test_what_the_code_returns_may_have_heads(tmp_path):
    heads = {"words": {"labels": "index"}, "sure": {}}
    with open_archive(build_outputs(tmp_path, "scores", more_code=SCORE, score="net:label", heads=heads)) as pipeline:
        words, sure = ask(pipeline, *PHOTOS[:2], head=["words", "sure"], context=["abc", "abc"])
    assert sorted(entry["label"] for entry in words["predictions"]) == ["0", "1", "2"]
    assert sum(entry["probability"] for entry in sure["predictions"]) == pytest.approx(1, abs=1e-4)


def test_a_model_that_takes_no_context_refuses_one(tmp_path):
    with open_archive(build_outputs(tmp_path, "scores")) as pipeline:
        (answer,), (plain,) = ask(pipeline, PHOTOS[0], context="a dog"), ask(pipeline, PHOTOS[0], context="")
    assert "about the picture alone: leave context out" in answer["error"]["message"]
    assert "error" not in plain


WRONG = {
    "score net:answer: there is no callable 'answer'": {"score": "net:answer"},
    "score nowhere:ask cannot be imported: No module named 'nowhere'": {"score": "nowhere:ask"},
    "scorecam run the network again, without the context": {"score": "net:ask", "methods": ["gradcam", "scorecam"]},
    "mode openvino cannot convert what score does": {"score": "net:ask", "runtime": {"mode": "openvino"}},
    "'no secrets'; defaults: {context: ...} must name one that it takes": {
        "score": "net:ask",
        "defaults": {"context": "secret"},
    },
}


def test_a_recipe_that_cannot_work_is_refused_in_one_line(tmp_path):
    for number, (message, recipe) in enumerate(WRONG.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
            build_outputs(folder, "scores", more_code=SCORE, **recipe)
        assert "\n" not in str(refusal.value)
