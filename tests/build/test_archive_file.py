"""A stranger's archive costs little to look at, says what is wrong with it in one line, and reaches nothing outside."""

import json
import zipfile
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.file import MOST_TEXT, check_sizes
from camserve.build.mar.pack import add_baseline
from camserve.build.mar.unpack import baseline_of, check_names, open_archive, read_contents
from camserve.build.recipe import Recipe
from camserve.build.sources import describe_source
from camserve.cli import main
from camserve.errors import CamserveError, ConfigError
from camserve.input_spec import InputSpec
from model_file import write_pets

CONFIG, MANIFEST = "model-config.yaml", "MAR-INF/MANIFEST.json"
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{this}: &{this} [{','.join(['*' + before] * 9)}]\n" for before, this in zip("abcdefghi", "bcdefghij")
)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    write_pets(folder)
    recipe = Recipe(
        "pets",
        str(folder / "net.pt"),
        factory="Net",
        model_file=str(folder / "net.py"),
        labels=str(folder / "labels.txt"),
        preprocess=InputSpec(resize=64, crop=64),
    )
    return build_archive(recipe, folder, quiet, fresh_process=False)


@cache
def contents_of(archive):
    with zipfile.ZipFile(archive) as source:
        return {name: source.read(name) for name in source.namelist()}


@cache
def blocks_of(archive):
    contents = contents_of(archive)
    return {CONFIG: yaml.safe_load(contents[CONFIG]), MANIFEST: json.loads(contents[MANIFEST])}


def rewrite(archive, target, changes, compression=zipfile.ZIP_STORED):
    """Copy an archive with files changed, left out (None) or added."""
    with zipfile.ZipFile(target, "w", compression) as copy:
        for name, content in {**contents_of(archive), **changes}.items():
            if content is not None:
                copy.writestr(name, content)
    return target


@pytest.fixture(scope="module")
def thin(pets, tmp_path_factory):
    """The archive without the code, which no reader opens: it is sooner copied, and a change hits what is read."""
    code = {name: None for name in contents_of(pets) if name.startswith("camserve/")}
    return rewrite(pets, tmp_path_factory.mktemp("thin") / "pets.mar", code, zipfile.ZIP_DEFLATED)


def manifest(**keys):
    return json.dumps({"model": {"modelName": "pets", "modelVersion": "1.0", **keys}})


READERS = {
    "inspect": read_contents,
    "sizes": check_sizes,
    "baseline": baseline_of,
    "add baseline": lambda path: add_baseline(path, path.with_suffix(".out"), b"{}"),
    "explain": lambda path: open_archive(path).__enter__(),
    "archive old.mar": lambda path: describe_source(str(path), {}, quiet),
    "a file of it": lambda path: find_file(f"{path}/labels.txt"),
}
BROKEN = {
    "aliases that unfold": ({CONFIG: LAUGHS}, "alias"),
    "settings that are no block": ({CONFIG: "[1]"}, "no block of keys"),
    "large settings": ({CONFIG: b"#" * (MOST_TEXT + 1)}, f"{MOST_TEXT} are read"),
    "a large manifest": ({MANIFEST: b" " * (MOST_TEXT + 1)}, f"{MOST_TEXT} are read"),
    "a manifest of another kind": ({MANIFEST: "[]"}, "no modelName"),
    "a name that is none": ({MANIFEST: manifest(modelName=[])}, "no modelName"),
    "no manifest": ({MANIFEST: None}, "no file 'MAR-INF/MANIFEST.json'"),
    "deep settings": ({CONFIG: "[" * 1_000}, "not an archive"),
    "a deep manifest": ({MANIFEST: '{"model":' + "[" * 100_000}, "not an archive"),
    "a date that is none": ({CONFIG: "a: 2000-99-99"}, "not an archive"),
}
OUTSIDE = ("../out.txt", "a/../../out.txt", "/tmp/out.txt", "C:/out.txt", "a\\..\\out.txt", "./out.txt", "a//out.txt")
READ_SETTINGS = ("inspect", "baseline", "explain", "add baseline")


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("reader", READ_SETTINGS)
def test_what_is_read_of_an_archive_is_small_and_of_a_known_form(thin, tmp_path, kind, reader):
    changes, message = BROKEN[kind]
    with pytest.raises(ConfigError, match=message) as refusal:
        READERS[reader](rewrite(thin, tmp_path / "x.mar", changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_no_file_of_an_archive_lies_outside_it(thin, tmp_path, reader, name):
    with pytest.raises(ConfigError, match="would lie outside it"):
        READERS[reader](rewrite(thin, tmp_path / "x.mar", {name: b"x"}))
    assert not list(tmp_path.rglob("out.txt"))


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    path = tmp_path_factory.mktemp("bomb") / "x.mar"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros", "w") as file,
    ):
        block = bytes(1 << 24)
        for _ in range(66):
            file.write(block)
    return path


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_refused(bomb, reader):
    with pytest.raises(ConfigError, match="would unpack to 1 GB"):
        READERS[reader](bomb)


def test_two_sizes_of_one_file_are_refused(pets, tmp_path):
    path = rewrite(pets, tmp_path / "x.mar", {}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("labels.txt").file_size
    found = data.rindex(b"labels.txt")  # in the directory: 22 bytes before the name stands the size
    forged = data[: found - 22] + (size + 5).to_bytes(4, "little") + data[found - 18 :]
    path.write_bytes(forged)
    with pytest.raises(ConfigError, match=r"two sizes|CRC"):
        check_sizes(path)


def test_an_entry_that_cannot_be_unpacked_is_refused(pets, tmp_path):
    plain = rewrite(pets, tmp_path / "plain.mar", {})
    data = plain.read_bytes()
    found = data.rindex(b"labels.txt")  # in the directory: 38 bytes before the name stand the flags, 22 the size
    forged = {"is encrypted": (38, b"\x01"), "has two sizes": (22, b"\xff")}
    for message, (back, byte) in forged.items():
        plain.write_bytes(data[: found - back] + byte + data[found - back + 1 :])
        with pytest.raises(ConfigError, match=f"'labels.txt' {message}"):
            read_contents(plain)
    with pytest.raises(ConfigError, match="is compressed in another way than deflate"):
        read_contents(rewrite(pets, tmp_path / "bz2.mar", {}, zipfile.ZIP_BZIP2))


def test_a_manifest_names_no_file_outside_its_archive(pets, tmp_path):
    (tmp_path / "secret.pt").write_bytes(b"secret")
    wrong = {
        "serializedFile": f"../../..{tmp_path}/secret.pt",
        "modelFile": f"../../..{tmp_path}/secret.pt",
    }
    old = {"handler": "image_classifier", "serializedFile": "net.pt", "modelFile": "net.py"}
    for key, file in wrong.items():
        path = rewrite(pets, tmp_path / f"{key}.mar", {MANIFEST: manifest(**{**old, key: file})})
        with pytest.raises(ConfigError, match="does not lie inside the archive"):
            find_file(describe_source(str(path), {}, quiet)["weights"])


def test_nothing_of_an_archive_reaches_a_terminal_raw(pets, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "pets\x1b]0;owned\x07\nmodel      other\u202e"
    path = rewrite(pets, tmp_path / "x.mar", {MANIFEST: manifest(modelName=evil), "samples/\x1b[2J": b"x"})
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["model", "pets\\x1b]0;owned\\x07\\nmodel"]
    assert all(line.isprintable() for line in lines)
    names = rewrite(pets, tmp_path / "y.mar", {MANIFEST: manifest(handler=evil)})
    assert main(["archive", str(names)]) == 1
    unknown = rewrite(pets, tmp_path / "z.mar", {CONFIG: '"batchSize": "\\e[31m"\ncamserve: {"\\e[2J\\n": 1}'})
    assert main(["inspect", str(unknown)]) == 1
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())
    assert main(["doctor", "--archive", str(unknown)]) == 1
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())


def test_two_archives_of_one_name_and_version_are_not_served_together(pets, tmp_path, capsys):
    copy = rewrite(pets, tmp_path / "dogs.mar", {})
    assert main(["serve", str(pets), str(copy)]) == 1
    assert "pets.mar and dogs.mar are both 'pets 1.0'" in capsys.readouterr().err
    lines = []
    newer = rewrite(pets, tmp_path / "newer.mar", {MANIFEST: manifest(modelVersion="2.0")})
    assert check_names([pets, newer, pets], lines.append) == [pets, newer]
    assert lines == ["newer.mar: its address is newer, and its answers and counters say pets"]


def test_two_archives_of_one_address_are_not_served_together(pets, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    other = rewrite(pets, tmp_path / "b" / pets.name, {MANIFEST: manifest(modelVersion="2.0")})
    for engine in ("torchserve", "asgi"):
        assert main(["serve", str(pets), str(other), "--engine", engine]) == 1
        said = f"{pets} and {other} would both answer at pets: rename one of the files"
        assert capsys.readouterr().err.splitlines() == [f"camserve: {said}"]


def test_looking_at_an_archive_runs_nothing_of_it(pets, tmp_path):
    mark = tmp_path / "code_ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    names = ("net.py", "gradcam_handler.py", "camserve/__init__.py", "yaml.py")
    path = rewrite(pets, tmp_path / "x.mar", dict.fromkeys(names, code))
    assert main(["inspect", str(path)]) == 0
    assert main(["doctor", "--archive", str(path)]) == 0
    assert main(["report", str(tmp_path / "no.jsonl"), "--baseline", str(path)]) == 1
    assert not mark.exists()
    with pytest.raises(ConfigError, match="no callable"), open_archive(path):
        pass
    assert mark.exists()  # this runs what a server runs


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8)), min_size=1, max_size=4))
@example(cuts=[(1.0, b"")])
def test_any_change_of_bytes_is_refused_in_one_line_or_reads_as_before(thin, tmp_path, cuts):
    data = bytearray(thin.read_bytes())
    for place, patch in cuts:
        at = int(place * len(data))
        data[at : at + len(patch)] = patch
    check_one_line(data, tmp_path)


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_the_settings_is_read_or_refused_in_one_line(thin, tmp_path, data):
    """One value of the settings, or of the manifest, becomes any other."""
    blocks = deepcopy(blocks_of(thin))
    name = data.draw(st.sampled_from(sorted(blocks)))
    place = blocks[name]
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    text = json.dumps(blocks[name]).encode()
    check_one_line(rewrite(thin, tmp_path / "x.mar", {name: text}).read_bytes(), tmp_path)


def check_one_line(data, folder):
    path = Path(folder) / "fuzzed.mar"
    path.write_bytes(data)
    for reader in ("inspect", "sizes", "baseline", "archive old.mar"):
        assert "\n" not in refusal_of(READERS[reader], path)


def refusal_of(read, path):
    try:
        read(path)
    except CamserveError as error:
        return str(error)
    return ""
