"""camserve explain with a running server: the same answers, and the same report as its audit log gives."""

import json
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import baseline_of
from camserve.build.recipe import load_recipe
from camserve.cli import main
from camserve.drift.audit_log import read_audit
from camserve.drift.records import records_of
from camserve.drift.tables import find_drifts
from camserve.drift.traffic import Traffic
from many_photos import explain
from model_file import quiet, write_pets
from synthetic_photos import write_photos

pytestmark = pytest.mark.server

PHOTOS = 500
DARK = 120  # enough for one window
CONFIG = "model-config.yaml"
SERVING = "serving: {minWorkers: 1, maxWorkers: 1, batchSize: 4, maxBatchDelay: 20}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """500 photos, darker ones, and the archive of a server that records every request."""
    folder = tmp_path_factory.mktemp("explain")
    recipe = write_pets(folder)
    recipe.write_text(recipe.read_text() + SERVING)
    archive = build_archive(load_recipe(recipe), folder / "store", quiet, fresh_process=False)
    write_photos(folder / "photos", PHOTOS)
    write_photos(folder / "dark", DARK, dark=0.6)
    assert main(["baseline", str(archive), "--images", str(folder / "photos")]) == 0
    switch_audit_on(archive, folder / "audit")
    return folder


def switch_audit_on(archive, audit):
    audit.mkdir(mode=0o700)
    changed = archive.with_suffix(".new")
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as after:
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename == CONFIG:
                config = yaml.safe_load(content)
                config["camserve"].setdefault("monitoring", {})["audit"] = {"directory": str(audit), "rate": 1.0}
                content = yaml.safe_dump(config).encode()
            after.writestr(entry, content)
    shutil.move(changed, archive)


@pytest.fixture(scope="module")
def server(folder, serve):
    with serve(folder / "store" / "pets.mar") as server:
        yield server


@pytest.fixture
def address(server, folder, monkeypatch):
    """The arguments that name the model and its token; the working folder has the photos."""
    monkeypatch.chdir(folder)
    side = server.inference
    return ["--url", f"{side.url}/predictions/pets", "--token", side.headers["Authorization"].partition(" ")[2]]


def answers_of(out):
    rows = map(json.loads, Path(out, "answers.jsonl").read_text().splitlines())
    return {row["path"]: row["answer"] or row["error"] for row in rows}


def await_records(folder, count):
    for _ in range(100):
        files = list((folder / "audit").glob("*.jsonl"))
        if sum(len(path.read_text().splitlines()) for path in files) >= count:
            return
        time.sleep(0.2)


def test_the_report_of_a_run_has_the_figures_of_the_servers_audit_log(address, folder):
    assert main(["explain", "dark", *address, "--out", "served", "--save", "csv"]) == 0
    await_records(folder, DARK)
    assert explain("store/pets.mar", "dark", "--out", "kept", "--save", "csv") == 0
    assert explain("store/pets.mar", "dark", "--out", "shards", "--save", "parquet") == 0
    version, baseline = baseline_of(Path("store/pets.mar"))
    logged, kept, shards = (
        Traffic(records_of(read_audit([Path(name)]), version), baseline) for name in ("audit", "kept", "shards")
    )
    assert len(logged.records) == len(kept.records) == len(shards.records) == DARK
    figures = [
        {name: (drift.requests, drift.z, drift.psi) for name, drift in find_drifts(traffic).items()}
        for traffic in (logged, kept, shards)
    ]
    assert len(figures[0]) > 15
    for name, figure in figures[0].items():
        np.testing.assert_allclose(figures[1][name], figure, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(figures[2][name], figure, rtol=1e-6, err_msg=name)
    fields = ("sha256", "format", "width", "height", "bytes", "traits")
    assert sorted(str([record.input[name] for name in fields]) for record in logged.records) == sorted(
        str([record.input[name] for name in fields]) for record in kept.records
    )


def test_a_server_and_an_archive_answer_alike(address):
    asked = ["photos/000*.png", "absent.png", "--target", "cat,dog", "--save", "images,gallery,sheet,csv"]
    assert main(["explain", *asked, *address, "--out", "asked-server"]) == 1
    assert explain("store/pets.mar", *asked, "--out", "asked-archive") == 1
    served, local = answers_of("asked-server"), answers_of("asked-archive")
    assert served.keys() == local.keys()
    assert served["absent.png"] == local["absent.png"]
    for path, answer in served.items():
        if path == "absent.png":
            continue
        other = local[path]
        assert answer["model"] == other["model"]
        assert answer["input"] == other["input"]
        for one, two in zip(answer["explanations"], other["explanations"], strict=True):
            np.testing.assert_allclose(one["grid"], two["grid"], atol=2e-3)
    names = [
        {path.relative_to(out).as_posix() for path in Path(out).rglob("*")} for out in ("asked-server", "asked-archive")
    ]
    assert names[0] == names[1]
    assert len([name for name in names[0] if name.startswith("images/")]) == 20


def test_shards_are_written_of_a_servers_answers_too(address, capsys):
    run = ["explain", "photos/001*.png", *address, "--out", "served-shards", "--save", "parquet,csv"]
    assert main([*run, "--shard-size", "4", "--workers", "2"]) == 0
    assert len(list(Path("served-shards/shards").iterdir())) == 3
    assert len(Path("served-shards/answers.csv").read_text().splitlines()) == 11
    capsys.readouterr()
    assert main(["report", "served-shards", "--baseline", "store/pets.mar"]) == 1
    assert "asked a server, that has them in its own audit log" in capsys.readouterr().err


def test_what_is_wrong_with_every_picture_ends_the_run_at_once(address, capsys):
    for changes, message in (
        (["--target", "cow"], "no class is called 'cow'"),
        (["--method", "scorecam"], "method 'scorecam' is not one of"),
        (["--url", address[1] + "x"], "answers 404"),
        (["--token", "wrong"], "answers 400"),
    ):
        assert main(["explain", "photos", *address, *changes, "--out", "wrong"]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1
        shutil.rmtree("wrong")


def test_a_model_that_was_changed_in_between_is_noticed(address, capsys):
    assert main(["explain", "photos/0001.png", *address, "--out", "changed", "--save", "csv"]) == 0
    spec = json.loads(Path("changed/run.json").read_text())
    spec["model"]["version"] = "0.9"
    Path("changed/run.json").write_text(json.dumps(spec))
    assert main(["explain", "photos", *address, "--out", "changed", "--save", "csv"]) == 1
    assert "the model is another than that of the answers in changed" in capsys.readouterr().err
