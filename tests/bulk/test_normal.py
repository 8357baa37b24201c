"""A baseline and a report from what camserve explain kept."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from camserve.build.mar.unpack import baseline_of
from camserve.cli import main
from many_photos import explain
from synthetic_photos import write_photos

pytestmark = pytest.mark.server  # as long as one

DAY = ["--date", "2026-01-01"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pets):
    """500 photos, labels, the archive with its baseline by ``--images``, and a run over the photos."""
    folder = tmp_path_factory.mktemp("normal")
    photos = write_photos(folder / "photos", 500)
    lines = [f"{path.name},{number % 3}" for number, path in enumerate(sorted(photos.iterdir()))]
    (folder / "labels.csv").write_text("\n".join(["file,class_index", *lines]) + "\n")
    labels = ["--labels", str(folder / "labels.csv")]
    arguments = ["baseline", str(pets), "--out", str(folder / "measured.mar"), *labels, *DAY]
    assert main([*arguments, "--images", str(photos)]) == 0
    assert explain(pets, photos, "--out", folder / "run", "--save", "parquet", "--workers", "1") == 0
    return folder


def test_a_baseline_of_a_run_is_that_of_its_photos(folder, pets):
    labels = ["--labels", str(folder / "labels.csv")]
    out = folder / "kept.mar"
    assert main(["baseline", str(pets), "--run", str(folder / "run"), "--out", str(out), *labels, *DAY]) == 0
    (one, measured), (other, kept) = baseline_of(folder / "measured.mar"), baseline_of(out)
    assert one == other
    assert kept.provenance == measured.provenance
    assert kept.signals_off == measured.signals_off
    assert kept.classes == measured.classes
    assert kept.accuracy.accuracy == measured.accuracy.accuracy
    assert kept.accuracy.threshold == pytest.approx(measured.accuracy.threshold, abs=1e-4)
    assert kept.shares == pytest.approx(measured.shares, abs=0.004)
    np.testing.assert_allclose(kept.heatmap, measured.heatmap, atol=1e-4)
    for name, bins in measured.signals.items():
        np.testing.assert_allclose(kept.signals[name].edges, bins.edges, rtol=2e-3, atol=2e-4, err_msg=name)
        assert np.abs(np.subtract(kept.signals[name].counts, bins.counts)).max() <= 2, name


def test_a_report_of_a_run_says_that_its_own_photos_do_not_drift(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["report", "run", "--baseline", "measured.mar", "--out", "report.html"]) == 0
    page = Path("report.html").read_text()
    assert "500 sampled requests" in page
    assert "class='alarm'" not in page


def test_a_run_of_another_model_or_too_few_pictures_is_no_baseline(folder, pets, capsys, tmp_path):
    assert explain(pets, folder / "photos" / "0001.png", "--out", tmp_path / "few", "--save", "csv") == 0
    assert main(["baseline", str(pets), "--run", str(tmp_path / "few")]) == 1
    assert "a baseline needs 500 pictures or more; 1 could be read" in capsys.readouterr().err
    shutil.copytree(folder / "run", tmp_path / "other")
    text = (tmp_path / "other" / "run.json").read_text()
    (tmp_path / "other" / "run.json").write_text(text.replace('"pets"', '"cats"'))
    assert main(["baseline", str(pets), "--run", str(tmp_path / "other")]) == 1
    assert "is a run of cats" in capsys.readouterr().err
