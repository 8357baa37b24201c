"""A whole evaluation, of an archive whose maps are where red is."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from camserve.build.mar.unpack import open_archive, read_contents
from camserve.cli import main
from camserve.errors import ConfigError
from camserve.evaluate.measures import GROUPS
from camserve.evaluate.page import render_evaluation
from camserve.evaluate.photos import LabelledPhoto, read_photos
from camserve.evaluate.plan import EvaluationPlan, Variant
from camserve.evaluate.run import evaluate
from camserve.evaluate.select import choose_photos, choose_variants
from camserve.evaluate.summary import summarise
from input_archives import build_means
from output_archives import build_outputs

PLAN = EvaluationPlan((Variant("gradcam"),), frozenset(GROUPS), steps=4)
COUNT = 6


@pytest.fixture(scope="module")
def means(build_once):
    return build_once("evaluated", build_means)


@pytest.fixture(scope="module")
def halves(build_once):
    """An archive whose scores are above 0 where a channel is above 127."""
    return build_once("attacked", lambda folder: build_means(folder, mean=(0.5,) * 3, std=(0.5,) * 3))


def attacked(pipeline, folder, background, label=0, **plan):
    """Return the values of the maps of a photo with a red square on a background, under an attack."""
    values = np.full((32, 32, 3), background, np.uint8)
    values[2:14, 2:14, 0] = 200
    Image.fromarray(values).save(folder / "attacked.png")
    photo = LabelledPhoto(folder / "attacked.png", label, ((2, 2, 14, 14),))
    plan = EvaluationPlan((Variant("gradcam"),), frozenset({"attack"}), **plan)
    return next(iter(evaluate(pipeline, [photo], plan, print))).values


@pytest.fixture
def data(tmp_path):
    """Grey photos with a red square, in a CSV with its box."""
    lines = ["path,label,x0,y0,x1,y1"]
    for number in range(COUNT):
        values = np.full((32, 32, 3), 60 + number, np.uint8)
        values[2:14, 2:14] = (255, 0, 0)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,index:0,2,2,14,14")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    return tmp_path / "boxes.csv"


def rows_of(pipeline, data, plan=PLAN, lines=None, kept=None):
    photos = read_photos(data, pipeline.heads[0].labels, print)
    return list(evaluate(pipeline, photos, plan, (lines if lines is not None else []).append, kept))


def test_a_true_map_beats_the_floors(means, data):
    with open_archive(means) as pipeline:
        summary = summarise(rows_of(pipeline, data))
    figures = summary.figures
    assert summary.photos == COUNT
    assert figures["pointing"]["gradcam"].mean == 1
    for floor in ("centre", "uniform", "random"):
        assert figures["energy"]["gradcam"].mean > figures["energy"][floor].mean + 0.2
        assert figures["deletion"]["gradcam"].mean < figures["deletion"][floor].mean
    assert figures["complexity"]["uniform"].mean == pytest.approx(1)
    assert figures["box"]["gradcam"].mean == 1
    assert figures["jpeg"]["gradcam"].mean > 0.8
    assert set(figures["jpeg"]) == {"gradcam"}
    assert figures["shift"]["gradcam"].mean > 0.8
    assert figures["road"]["gradcam"].mean > figures["road"]["random"].mean
    assert figures["random"]["gradcam"].mean < 0.75  # 0.69; 1 of weights that stay
    assert figures["attack_won"]["gradcam"].mean == 0  # red is too far from any other class
    assert figures["attack_pointing"]["gradcam"].mean == 1
    assert "absent" not in figures  # each of three classes may be there


def test_an_attack_does_not_aim_at_the_class_of_the_photo(halves, tmp_path):
    with open_archive(halves) as pipeline:
        values = attacked(pipeline, tmp_path, (110, 116, 60), label=2)  # blue is last, and too far away
        assert values["attack_won"] == 1
        assert attacked(pipeline, tmp_path, (110, 116, 60), attack_class=0) == {}
        assert attacked(pipeline, tmp_path, (110, 116, 60), attack_class=2)["attack_won"] == 0


def test_a_map_of_evidence_against_goes_by_how_strong_it_is(tmp_path, data):
    archive = build_means(tmp_path, methods=("gradcam", "gradcam-"), sign=-1, mean=(0,) * 3, std=(1,) * 3)
    groups = frozenset({"place", "shape", "stable"})
    with open_archive(archive) as pipeline:
        plan = EvaluationPlan((Variant("gradcam"), Variant("gradcam-")), groups)
        figures = summarise(rows_of(pipeline, data, plan)).figures
    assert figures["pointing"]["gradcam-"].mean == 1
    assert figures["energy"]["gradcam-"].mean > figures["energy"]["centre"].mean + 0.2
    assert figures["complexity"]["gradcam-"].mean < 1
    assert figures["shift"]["gradcam-"].mean > 0.8
    assert set(figures["box"]) >= {"gradcam"}
    assert "gradcam-" not in figures["box"]  # it is answered without boxes


def test_an_attack_that_wins_is_told_with_its_warning_and_where_the_map_points(halves, tmp_path):
    """It takes blue above red and leaves it below 0, where there is no evidence for it."""
    with open_archive(halves) as pipeline:
        values = attacked(pipeline, tmp_path, (110, 116, 115))
    assert (values["attack_won"], values["attack_warned"]) == (1, 1)
    assert (values["attack_pointing"], values["attack_energy"]) == (1, pytest.approx(1, abs=0.01))
    assert values["attack"] > 0.5


def test_absent_classes_are_asked_for_and_said_to_be_weak(imagenet, tmp_path, coffee):
    (tmp_path / "espresso").mkdir()
    (tmp_path / "espresso" / "coffee.png").write_bytes(coffee)
    with open_archive(imagenet) as pipeline:
        plan = EvaluationPlan((Variant("gradcam"),), frozenset({"absent"}))
        summary = summarise(rows_of(pipeline, tmp_path, plan))
    assert summary.accuracy == 1
    assert summary.figures["absent"]["gradcam"].mean == 1
    assert set(summary.figures) == {"absent"}


def test_a_stopped_run_goes_on_and_gives_the_same(means, data, tmp_path):
    kept = tmp_path / "rows.jsonl"
    with open_archive(means) as pipeline:
        whole = rows_of(pipeline, data)
        assert rows_of(pipeline, data, kept=kept) == whole
        written = kept.read_text()
        lines = written.splitlines(keepends=True)
        kept.write_text("".join(lines[:3]) + lines[3][:40])  # stopped in the middle of a line
        assert rows_of(pipeline, data, kept=kept) == whole
        assert kept.read_text() == written
        stamp = kept.stat().st_mtime_ns
        assert rows_of(pipeline, data, kept=kept) == whole
        assert kept.stat().st_mtime_ns == stamp
        with pytest.raises(ConfigError, match="made of another archive or with other options"):
            rows_of(pipeline, data, EvaluationPlan((Variant("gradcam"),), steps=5), kept=kept)
        kept.write_text("no rows\n")
        with pytest.raises(ConfigError, match="line 1, is no row of camserve evaluate"):
            rows_of(pipeline, data, kept=kept)


def test_a_photo_that_cannot_be_read_is_left_out_and_named(means, data):
    (data.parent / "3.png").write_bytes(b"no picture")
    lines = []
    with open_archive(means) as pipeline:
        assert summarise(rows_of(pipeline, data, lines=lines)).photos == COUNT - 1
    (line,) = lines
    assert "3.png: left out: " in line


def test_a_photo_whose_mask_does_not_fit_is_left_out_and_named(means, data):
    Image.new("L", (32, 32), 255).save(data.parent / "mask.png")
    Image.new("L", (30, 32), 255).save(data.parent / "small.png")
    rows = ["path,label,mask", "0.png,index:0,mask.png", "1.png,index:0,small.png", "2.png,index:0,mask.png"]
    (data.parent / "masks.csv").write_text("\n".join(rows))
    lines = []
    with open_archive(means) as pipeline:
        plan = EvaluationPlan((Variant("gradcam"),), frozenset({"place"}))
        assert summarise(rows_of(pipeline, data.parent / "masks.csv", plan, lines)).photos == 2
    (line,) = lines
    assert "1.png: left out: " in line
    assert line.endswith("small.png has 30 x 32 pixels, its photo 32 x 32")


def test_what_an_archive_does_not_offer_is_refused(means):
    with open_archive(means) as pipeline:
        with pytest.raises(ConfigError, match="--methods 'layercam' is not one of: gradcam"):
            choose_variants(pipeline.settings, ["layercam"], [])
        with pytest.raises(ConfigError, match="--layers 'stem'"):
            choose_variants(pipeline.settings, [], ["stem"])
        assert choose_variants(pipeline.settings, [], ["features"]) == (Variant("gradcam", "features"),)


def test_an_archive_of_quantities_is_refused(data, tmp_path, capsys):
    archive = build_outputs(tmp_path, "scores", task="regression")
    assert main(["evaluate", str(archive), "--data", str(data)]) == 1
    assert capsys.readouterr().err.endswith("camserve: evaluate needs classes: the archive's task is regression\n")


@pytest.mark.parametrize("option", ["--steps", "--photos"])
def test_a_number_below_one_is_refused(means, data, option, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", str(means), "--data", str(data), option, "0"])
    assert "'0' is not a whole number from 1" in capsys.readouterr().err


def test_photos_are_drawn_by_the_seed_and_keep_their_order(tmp_path):
    photos = [LabelledPhoto(tmp_path / f"{number:03d}.jpg", 0) for number in range(100)]
    drawn = choose_photos(photos, 10, 1)
    assert drawn == choose_photos(photos, 10, 1) == sorted(drawn, key=lambda photo: photo.path)
    assert drawn != choose_photos(photos, 10, 2)
    assert choose_photos(photos, None, 1) == choose_photos(photos, 200, 1) == photos


def test_the_command_prints_a_table_and_writes_json_and_one_page(means, data, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("new/found.json", "new/found.html")]
    archive = tmp_path / "means.mar"
    shutil.copy(means, archive)
    command = ["evaluate", str(archive), "--data", str(data), "--steps", "4", "--json", files[0], "--html", files[1]]
    assert main([*command, "--write-card"]) == 0
    card = read_contents(archive).settings.evaluated
    assert (card.photos, card.by, card.target, card.steps, card.seed) == (COUNT, "energy", "label", 4, 0)
    assert set(card.verdicts) == {"gradcam"}
    assert set(card.figures["energy"]) == {"gradcam", "centre", "uniform", "random", "edges"}
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split()[:3] == ["map", "pointing", "energy"]
    assert "boxes fit best with defaults: {box_threshold:" in shown
    assert "masks fit best" not in shown
    found = json.loads((tmp_path / "new" / "found.json").read_text())
    assert found["figures"]["pointing"]["gradcam"]["mean"] == 1
    assert found["photos"] == COUNT
    page = (tmp_path / "new" / "found.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * COUNT
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert main(["evaluate", str(means), "--data", str(data), "--measures", "places"]) == 1
    assert "--measures 'places' is not one of: place" in capsys.readouterr().err


def test_photos_are_sorted_by_a_measure_that_the_first_map_has(means, data):
    with open_archive(means) as pipeline:
        photos = read_photos(data, pipeline.heads[0].labels, print)
        rows = rows_of(pipeline, data, dataclasses.replace(PLAN, groups=frozenset({"place", "shape"})))
        for row in rows:
            if row.variant == "gradcam":
                del row.values["energy"]
        page = render_evaluation(summarise(rows), pipeline, photos, PLAN.variants[0], "title")
        assert "Best by complexity" in page
        assert page.count("data:image/jpeg;base64,") == 2 * COUNT
        for row in rows:
            if row.variant == "gradcam":
                row.values.clear()
        page = render_evaluation(summarise(rows), pipeline, photos, PLAN.variants[0], "title")
    assert "Best by" not in page


def test_without_boxes_and_masks_measures_of_place_are_refused_before_the_run(means, data, capsys):
    (data.parent / "plain.csv").write_text("path,label\n0.png,index:0\n")
    command = ["evaluate", str(means), "--data", str(data.parent / "plain.csv"), "--write-card", "--measures"]
    assert main([*command, "place"]) == 1
    assert "camserve: nothing would be measured: measures of place need boxes or masks\n" in capsys.readouterr().err
    assert main([*command, "absent"]) == 1
    assert "camserve: nothing was measured: measures of place need boxes or masks" in capsys.readouterr().err


def test_the_threshold_that_suits_masks_is_shown(means, data, capsys):
    mask = np.zeros((32, 32), np.uint8)
    mask[2:14, 2:14] = 255
    Image.fromarray(mask).save(data.parent / "mask.png")
    rows = ["path,label,mask", *(f"{number}.png,index:0,mask.png" for number in range(COUNT))]
    (data.parent / "masks.csv").write_text("\n".join(rows))
    found = data.parent / "found.json"
    command = ["evaluate", str(means), "--data", str(data.parent / "masks.csv"), "--measures", "place"]
    assert main([*command, "--json", str(found)]) == 0
    threshold = json.loads(found.read_text())["mask_threshold"]["gradcam"]
    assert f"masks fit best from {threshold:g} of the map's maximum" in capsys.readouterr().out
