"""Settings of a built archive are changed, checked and written whole, or not at all."""

import json
import zipfile

import pytest

from camserve.build.archive import build_archive
from camserve.build.changes import CHANGEABLE, change_config
from camserve.build.mar.unpack import open_archive, read_contents
from camserve.build.recipe import load_recipe
from camserve.cli import main
from camserve.errors import CamserveError, ConfigError
from camserve.serving.seal import FREE
from camserve.serving.selftest import SELFTEST_FILE
from camserve.settings import load_settings
from camserve.values import RawRequest
from model_file import quiet, write_pets


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    recipe = load_recipe(write_pets(tmp_path_factory.mktemp("pets")))
    return build_archive(recipe, tmp_path_factory.mktemp("store"), quiet, fresh_process=False)


@pytest.fixture
def pets(built, tmp_path):
    (tmp_path / "pets.mar").write_bytes(built.read_bytes())
    return tmp_path / "pets.mar"


def replay_here(path, _threads, advice):
    """Load an archive and repeat its self-test as ``replay`` does, but in this process, which has torch already."""
    try:
        with open_archive(path):
            pass
    except CamserveError as error:
        raise ConfigError(f"{error}{advice}") from None


@pytest.fixture
def not_replayed(monkeypatch):
    """Leave the changed archive's own process out, which takes 3 s: the tests without this hold what it is for."""
    monkeypatch.setattr("camserve.build.configure.replay", lambda *_, **__: None)


def answer(archive, photo, **options):
    with open_archive(archive) as pipeline:
        return json.loads(pipeline.answer([RawRequest(photo, {"explain": True, **options})])[0].body)


@pytest.mark.server
def test_what_is_changed_is_printed_and_in_force(pets, capsys, chelsea):
    pairs = ["defaults.top_k=2", "limits.max_targets=2", "batchSize=4", "serving.maxBatchDelay=5"]
    pairs += ["monitoring.audit.directory=/var/log/camserve", "monitoring.low_confidence=0.5"]
    assert main(["configure", str(pets), *pairs]) == 0
    said = capsys.readouterr()
    assert "its photos get the answers that they got" in said.err
    assert [line for line in said.out.splitlines() if "audit." not in line] == [
        "batchSize: 8 -> 4",
        "defaults.top_k: 5 -> 2",
        "limits.max_targets: 5 -> 2",
        "maxBatchDelay: 10 -> 5",
        "monitoring.low_confidence: null -> 0.5",
        f"wrote {pets}",
    ]
    assert "monitoring.audit.rate: null -> 0.01" in said.out
    contents = read_contents(pets)
    assert (contents.config["batchSize"], contents.config["maxBatchDelay"]) == (4, 5)
    assert contents.settings.monitoring.audit.directory == "/var/log/camserve"
    assert len(answer(pets, chelsea)["predictions"]) == 2
    config = change_config(contents.config, [("monitoring.audit", "null")])
    assert load_settings(config["camserve"]).monitoring.audit is None


def test_an_archive_that_stays_as_it_is_is_not_written(pets, capsys):
    before = pets.stat().st_mtime_ns
    assert main(["configure", str(pets), "defaults.top_k=5"]) == 0
    assert capsys.readouterr().out == "nothing changes: nothing was written\n"
    assert pets.stat().st_mtime_ns == before


def test_methods_are_added_measured_and_taken_away(pets, not_replayed, chelsea):
    assert main(["configure", str(pets), "methods=gradcam, layercam"]) == 0
    settings = read_contents(pets).settings
    assert settings.methods == tuple(settings.measures.methods) == ("gradcam", "layercam")
    assert settings.measures.methods["layercam"].random_weights is not None
    assert answer(pets, chelsea, method="layercam")["explanations"][0]["status"] == "ok"
    assert main(["configure", str(pets), "methods=layercam", "defaults.method=layercam"]) == 0
    with zipfile.ZipFile(pets) as archive:
        recorded = json.loads(archive.read(SELFTEST_FILE))
    assert recorded["options"]["method"] == "layercam"
    assert tuple(read_contents(pets).settings.measures.methods) == ("layercam",)
    assert answer(pets, chelsea)["explanations"][0]["method"] == "layercam"  # by what passed its self-test here


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["name=x"], "unknown key 'name'"),
        (["batchsize=3"], "did you mean 'batchSize'?"),
        (["layers=features"], "layers belongs to the network: build the archive again"),
        (["runtime.mode=openvino"], "build the archive again, with runtime.mode in its recipe"),
        (["monitoring.baseline=x"], "camserve baseline measures one"),
        (["top"], "'top' is no KEY=VALUE"),
        (["limits.max_pixels=["], "limits.max_pixels: '[' is no YAML"),
        (["limits.max_targets=none"], "limits.max_targets must be a whole number"),
        (["batchSize=0"], "serving.batchSize must be a whole number from 1, not '0'"),
        (["minWorkers=3"], "serving.minWorkers 3 is above maxWorkers 1"),
        (["limits.answer_ms=25000"], "more than two thirds of serving.responseTimeout, 30 s"),
        (["methods=nosuch"], "is not one of"),
        (["methods=layercam"], "method 'gradcam' is not one of: layercam"),
        (["defaults.top_k=many"], "option 'top_k' takes a number, not 'many'; nothing was written"),
    ],
)
def test_what_would_not_work_is_refused_and_nothing_written(pets, pairs, said, capsys, monkeypatch):
    monkeypatch.setattr("camserve.build.configure.replay", replay_here)
    before = pets.read_bytes()
    assert main(["configure", str(pets), *pairs]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert pets.read_bytes() == before
    assert [path.name for path in pets.parent.iterdir()] == ["pets.mar"]


def test_a_limit_below_its_own_photos_is_refused(pets, monkeypatch, capsys):
    monkeypatch.setattr("camserve.build.configure.replay", replay_here)
    assert main(["configure", str(pets), "limits.max_bytes=10"]) == 1
    assert "the limit is 10; nothing was written" in capsys.readouterr().err


def test_a_changed_archive_goes_where_it_is_told_and_the_old_one_stays(pets, not_replayed, built, tmp_path, capsys):
    out = tmp_path / "new" / "pets.mar"
    assert main(["configure", str(pets), "defaults.top_k=1", "--out", str(out)]) == 0
    assert pets.read_bytes() == built.read_bytes()
    assert read_contents(out).settings.defaults.top_k == "1"
    (tmp_path / "file").touch()
    assert main(["configure", str(pets), "defaults.top_k=1", "--out", str(tmp_path / "file" / "pets.mar")]) == 1
    assert "camserve: cannot write" in capsys.readouterr().err


def test_without_pairs_every_key_is_shown_and_taken_back_as_it_is(pets, capsys):
    assert main(["configure", str(pets)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "defaults.method=gradcam" in lines
    assert 'methods=["gradcam"]' in lines
    assert "batchSize=8" in lines
    assert main(["configure", str(pets), *lines]) == 0
    assert capsys.readouterr().out == "nothing changes: nothing was written\n"


def test_what_may_be_changed_is_what_no_seal_holds_but_the_methods():
    assert set(CHANGEABLE) == {*FREE, "methods"} - {"seal"}
