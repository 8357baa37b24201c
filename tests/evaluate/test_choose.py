"""Which map wins, and where that is written down."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from camserve.build.mar.unpack import open_archive, read_contents
from camserve.build.recipe import load_recipe
from camserve.cli import main
from camserve.client.answers import read_answer
from camserve.errors import ConfigError
from camserve.evaluate.choice import choose_variant
from camserve.evaluate.evidence_card import make_evidence_card
from camserve.evaluate.measures import THRESHOLDS
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures, Variant
from camserve.evaluate.summary import summarise
from camserve.measures import Evaluated, MethodMeasure
from camserve.serving.description import describe_model
from camserve.values import RawRequest
from input_archives import build_means

VARIANTS = tuple(map(Variant, ("gradcam", "layercam", "eigencam")))
SANE = MethodMeasure(random_weights=0.1)
BLIND = MethodMeasure(random_weights=0.9)
COUNT = 40


def rows_of(worth, count=COUNT, fits=0.3):
    """Rows of photos whose energy has these means, and whose boxes fit at one threshold."""
    random = np.random.default_rng(0)
    for photo in range(count):
        common = random.normal(0, 0.1)
        for name, mean in {**worth, "centre": 0.2}.items():
            iou = {f"{threshold:g}": float(threshold == fits) for threshold in THRESHOLDS}
            yield PhotoMeasures(
                f"{photo:03d}#0", name, 0, 0, 0.9, {"energy": mean + common + random.normal(0, 0.02)}, {"box": iou}
            )


def chosen(worth, measured=None, **more):
    return choose_variant(rows_of(worth, **more), VARIANTS, "energy", measured or {})


def test_the_default_stays_unless_another_is_better_for_sure():
    same = chosen({"gradcam": 0.5, "layercam": 0.5, "eigencam": 0.4})
    assert same.variant == Variant("gradcam")
    assert same.reason.startswith("gradcam stays, no other is better for sure: energy 0.")
    assert "; centre, which knows nothing, 0." in same.reason


def test_the_best_of_the_better_ones_wins_with_figures_of_photos_that_did_not_choose():
    best = chosen({"gradcam": 0.3, "layercam": 0.6, "eigencam": 0.5})
    assert best.variant == Variant("layercam")
    assert best.defaults == {"method": "layercam", "box_threshold": "0.3"}
    assert best.held_out.photos == COUNT // 2
    card = make_evidence_card(
        best.held_out, EvaluationPlan(VARIANTS), "energy", {"eigencam": BLIND}, "2026-11-30", "abc", best.reason
    )
    assert card.figures["energy"]["layercam"][0] == pytest.approx(0.6, abs=0.1)
    assert card.verdicts["layercam"].endswith("; better than centre, which knows nothing")
    assert "; hardly depends on the classifier's weights; better" in card.verdicts["eigencam"]


def test_a_card_says_of_each_map_whether_it_beats_the_floors():
    summary = summarise(rows_of({"gradcam": 0.201, "layercam": 0.1, "eigencam": 0.5}))
    card = make_evidence_card(summary, EvaluationPlan(VARIANTS), "energy", {}, "2026-11-30", "abc")
    assert card.verdicts["gradcam"].endswith("; not for sure another than centre, which knows nothing")
    assert card.verdicts["layercam"].endswith("; worse than centre, which knows nothing")
    assert card.verdicts["eigencam"].endswith("; better than centre, which knows nothing")
    assert card.verdict == f"gradcam: {card.verdicts['gradcam']}"
    assert len(card.card_id) == 12
    assert dataclasses.replace(card, photos=41).card_id != card.card_id
    assert Evaluated().card_id == ""


def test_a_card_says_how_it_was_measured():
    summary = summarise(rows_of({"gradcam": 0.2}))
    plan = EvaluationPlan(VARIANTS, target="predicted", steps=9, seed=4)
    card = make_evidence_card(summary, plan, "energy", {}, "2026-11-30", "abc")
    assert (card.target, card.steps, card.seed) == ("predicted", 9, 4)
    assert card.verdicts["gradcam"].endswith("; maps of the predicted class, right or wrong")
    assert card.verdict == f"gradcam: {card.verdicts['gradcam']}"
    assert make_evidence_card(summary, plan, "energy", {}, "2026-11-30", "abc", "gradcam stays").verdict == (
        "gradcam stays; maps of the predicted class, right or wrong"
    )
    card = make_evidence_card(summary, EvaluationPlan(VARIANTS), "energy", {}, "2026-11-30", "abc")
    assert card.target == "label"
    assert "predicted" not in card.verdict


def test_what_hardly_depends_on_the_class_cannot_win():
    measured = {"layercam": BLIND, "eigencam": SANE}
    best = chosen({"gradcam": 0.3, "layercam": 0.6, "eigencam": 0.5}, measured)
    assert best.variant == Variant("eigencam")
    assert best.reason.endswith("better, but hardly depending on the class: layercam")


def test_of_too_few_photos_or_without_the_measure_nothing_is_chosen():
    with pytest.raises(ConfigError, match="19 photos are too few to choose by: give 20 or more"):
        chosen({"gradcam": 0.3}, count=19)
    with pytest.raises(ConfigError, match="no photo has the measure insertion: measures of place need boxes or masks"):
        choose_variant(rows_of({"gradcam": 0.3}), VARIANTS[:1], "insertion", {})


def test_maps_too_fine_to_be_boxed_cannot_win_by_boxes():
    rows = list(rows_of({"gradcam": 0.3, "layercam": 0.3}))
    fine = [dataclasses.replace(row, overlaps={}) if row.variant == "layercam" else row for row in rows]
    assert choose_variant(fine, VARIANTS[:2], "box", {}).variant == Variant("gradcam")
    with pytest.raises(ConfigError, match="layercam has no measure box: its map is too fine"):
        choose_variant(fine, VARIANTS[1::-1], "box", {})


def test_the_choice_goes_into_the_archive_and_a_recipe(tmp_path, capsys):
    archive = build_means(tmp_path)
    lines = ["path,label,x0,y0,x1,y1"]
    for number in range(20):
        values = np.full((32, 32, 3), 60 + number, np.uint8)
        values[2:14, 2:14] = (255, 0, 0)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,index:0,2,2,14,14")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    (tmp_path / "means.yaml").write_text("name: means\nweights: net.pt\ndefaults: {top_k: '1'}\n")
    recipes = ["--recipe", str(tmp_path / "means.yaml"), "--save-recipe", str(tmp_path / "chosen.yaml")]
    assert main(["choose", str(archive), "--data", str(tmp_path / "boxes.csv"), "--write-card", *recipes]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("gradcam stays")
    assert 'defaults: {method: "gradcam", box_threshold: "' in shown
    settings = read_contents(archive).settings
    assert settings.evaluated.photos == 10
    assert settings.evaluated.verdict in shown
    assert settings.evaluated.figures["pointing"]["gradcam"] == (1, 1, 1)
    assert f'box_threshold: "{settings.defaults.box_threshold}"' in shown
    chosen = load_recipe(tmp_path / "chosen.yaml").defaults
    assert (chosen.method, chosen.top_k, chosen.box_threshold) == ("gradcam", "1", settings.defaults.box_threshold)
    with open_archive(archive) as pipeline:  # whose seal fits what was added
        card = describe_model(pipeline.model, pipeline.heads, pipeline.settings)["evidence_card"]
        (response,) = pipeline.answer([RawRequest((tmp_path / "0.png").read_bytes(), {"explain": "true"})])
    assert card["data"] == settings.evaluated.data
    assert read_answer(json.loads(response.body), b"").evidence_card == card["id"] == settings.evaluated.card_id
    assert main(["inspect", str(archive), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["evidence_card"]
    assert (shown["id"], shown["photos"]) == (card["id"], 10)
    assert main(["choose", str(archive), "--data", str(tmp_path / "boxes.csv"), "--by", "drop", "--photos", "5"]) == 1
    assert "too few to choose by" in capsys.readouterr().err
