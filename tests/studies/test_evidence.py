"""The page of evidence is made of the rows that are kept, and of nothing else."""

import json
from dataclasses import asdict, replace

import pytest

import evidence
import evidence_text
from attacked_photos import Attacked, Picture, read_attacks, separations
from camserve.evaluate.measures import THRESHOLDS
from camserve.evaluate.plan import PhotoMeasures
from camserve.monitor.signals import NAMES
from evidence_tables import attack_table, box_table, figure_table, halves_table, warning_table, write_table
from map_measures import AIRLINER, QUICK, SLOW, Part, Run, read_rows


def row(photo, variant, value):
    fits = {f"{threshold:g}": float(threshold == 0.2) for threshold in THRESHOLDS}
    return PhotoMeasures(f"{photo}#0", variant, 0, 0, 0.9, {"energy": value}, {"box": fits})


def attacked(photo, confidence, energy):
    before = Picture(0, 0.5, [], {"gradcam": [1.0, 0.6]}, [0.5] * len(NAMES))
    signals = [confidence, *[0.5] * (len(NAMES) - 1)]
    after = Picture(AIRLINER, confidence, ["LOW_CONFIDENCE"], {"gradcam": [0.0, energy]}, signals)
    return Attacked(f"{photo}.jpg", 0, before, after)


def test_rows_are_read_back_and_a_run_that_was_not_begun_has_none(tmp_path):
    rows = [row(0, "gradcam", 0.5), row(0, "centre", 0.25)]
    lines = [{"plan": {}}, [asdict(one) for one in rows]]
    (tmp_path / "net.place.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "[{")
    assert read_rows(tmp_path, "net", "place") == rows
    assert read_rows(tmp_path, "net", "road") == []


def test_a_table_names_the_photos_and_leaves_out_what_was_not_measured():
    rows = {"Net": [one for photo in range(4) for one in (row(photo, "gradcam", 0.5), row(photo, "centre", 0.25))]}
    lines = figure_table(rows | {"Other": []}, ("energy", "pointing")).splitlines()
    assert lines[2] == "| Net | 4 | `gradcam` | 0.50 [0.50 0.50] |  |"
    assert lines[3].startswith("| Net | 4 | `centre` | 0.25 [0.25 0.25]")
    assert len(lines) == 4
    boxes = box_table(rows, {"0#0"}).splitlines()
    assert boxes[2].startswith("| Net | all | 4 |")
    assert "| 0.00 [0.00 0.00] | 1.00 [1.00 1.00] |" in boxes[2]


def test_both_halves_are_compared_photo_by_photo():
    values = {"layercam": (1.0, 0.6), "gradcam": (0.0, 0.5), "centre": (1.0, 0.2)}
    rows = [
        replace(row(photo, name, 0), values={"pointing": pointing, "energy": energy})
        for photo in range(3)
        for name, (pointing, energy) in values.items()
    ]
    blank = [replace(row(3, name, 0), values={"energy": 0.5}) for name in values]
    lines = halves_table(rows + blank).splitlines()
    assert lines[0].startswith("| map, 3 photos |")
    assert lines[3] == "| `gradcam` | 0.00 [0.00 0.00] | 0.50 [0.50 0.50] | 1.00 [1.00 1.00] | 0.10 [0.10 0.10] |"
    assert lines[4].endswith("| 0.00 [0.00 0.00] | 0.40 [0.40 0.40] |")


def test_attacks_are_compared_photo_by_photo(tmp_path):
    rows = [attacked(photo, 0.9 + photo / 100, 0.2) for photo in range(3)]
    (tmp_path / "net.attacked.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in rows))
    assert read_attacks(tmp_path, "net") == rows
    assert "| 1.00 [1.00 1.00] | 0.00 [0.00 0.00] |" in attack_table({"Net": rows})
    assert "-0.40 [-0.40 -0.40]" in attack_table({"Net": rows})
    found = separations(rows)
    assert found["confidence"] == 1
    assert found["margin"] == 0.5
    expected = "| Net | 3 | 100% [44% 100%] | 0.500 | 0.910 | none | `LOW_CONFIDENCE` 100% | confidence 1.00"
    assert expected in warning_table({"Net": rows}, AIRLINER)


def test_more_photos_of_a_run_are_those_of_fewer_and_others():
    photos = list(range(50))
    part = Part(None, photos, [number % 2 == 0 for number in photos], AIRLINER)
    few, many = (part.chosen(Run(frozenset(), count, QUICK)) for count in (5, 20))
    assert many[:5] == few
    assert all(number % 2 == 0 for number in many)
    assert len(part.chosen(Run(frozenset(), 40, SLOW, is_small=False))) == 40


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "imagenet-val-500"
    (photos / "images").mkdir(parents=True)
    (photos / "labels.csv").write_text(
        "file,class_index,boxes_x1y1x2y2,box_fraction_of_centre_224\na.jpg,0,1 1 9 9,0.2\n"
    )
    return tmp_path


def test_a_page_keeps_the_lines_of_networks_that_were_not_measured_anew(folder):
    lines = [{"plan": {}}, [asdict(row(photo, "gradcam", 0.5)) for photo in range(2)]]
    (folder / "dino.slow.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    head = ("network", "photos", "map", "pointing", "energy", "complexity", "random")
    table = write_table(head, [])
    kept = "| MobileNetV2 | 10 | `gradcam` | 0.60 | 0.40 | 0.91 | 0.07 |"
    heading = evidence.heading_of(evidence_text.SLOW)
    page = evidence.write_page(folder, folder, f"# Page\n\n{heading}\n\n{table}\n{kept}\n")
    assert f"{table}\n{kept}\n| DINOv2 ViT-S | 2 | `gradcam` |  | 0.50" in page
    assert evidence_text.EARLIER_LINES.format(networks="MobileNetV2") in page


def test_a_section_that_was_not_measured_anew_stays_and_says_so(folder):
    once = evidence.write_page(folder, folder, "# Page\n\n## Boxes\n\nOld figures.\n\n## Other\n\nGone.\n")
    assert once.endswith(f"\n## Boxes\n\n{evidence_text.EARLIER}\n\nOld figures.\n")
    assert "Other" not in once
    assert evidence.write_page(folder, folder, once) == once


def test_lines_of_networks_that_were_not_measured_anew_stay_and_the_section_names_them():
    before = "\n## Road\n\nWords.\n\n| network | road |\n| --- | --- |\n| Net | 1 |\n| Net | 2 |\n| Other | 3 |\n"
    new = before.replace("| Net | 1 |\n| Net | 2 |\n", "").replace("3", "4")
    note = evidence_text.EARLIER_LINES.format(networks="Net")
    kept = before.replace("3", "4").replace("## Road\n", f"## Road\n\n{note}\n")
    assert evidence.keep_lines(new, before, ["Net", "Other"]) == kept
    assert evidence.keep_lines(new, kept, ["Net", "Other"]) == kept
    assert evidence.keep_lines(before, kept, ["Net", "Other"]) == before
    assert evidence.keep_lines("", before, ["Net", "Other"]) == ""


@pytest.mark.parametrize("name", ["boxes", "on-what-a-map-depends", "where-maps-of-a-vision-transformer-point"])
def test_headings_that_other_pages_link_to_stay(name):
    words = [text for text in vars(evidence_text).values() if isinstance(text, str)]
    headings = {line[3:].lower().replace(" ", "-").replace(",", "") for text in words for line in text.split("\n")}
    assert name in headings
