"""Pictures and their names, from whatever a person names."""

import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from camserve.bulk.reading import UNREADABLE, load, read_ahead
from camserve.bulk.sources import Photo, list_photos
from camserve.errors import ConfigError

FOUND = ["photos/a.jpg", "photos/a.png", "photos/broken.jpg", "photos/c.png", "photos/sub/a.jpg", "photos/sub/b.png"]


def paths(*sources):
    return [photo.path for photo in list_photos(sources, {})]


@pytest.mark.usefixtures("photos")
def test_a_folder_a_pattern_and_a_file_are_their_pictures_each_once():
    assert paths("photos") == FOUND
    assert paths("photos/*.png") == ["photos/a.png", "photos/c.png"]
    assert paths("photos/**/a.jpg") == ["photos/a.jpg", "photos/sub/a.jpg"]
    assert paths("photos/c.png", "photos") == ["photos/c.png", *(path for path in FOUND if path != "photos/c.png")]


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "parquet"])
def test_a_list_names_pictures_from_its_own_folder_on(photos, kind):
    entries, path = ["c.png", str(photos / "a.png"), "not there.png"], photos / f"list.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table({"id": [1, 2, 3], "path": entries}), path)
    elif kind == "txt":
        path.write_text("\n".join(entries) + "\n\n")
    else:
        mark = "," if kind == "csv" else "\t"
        path.write_text(
            "\ufeffid,file\n".replace(",", mark) + "".join(f"{entry[:1]}{mark}{entry}\n" for entry in entries)
        )
    assert paths(str(path)) == [str(photos / "c.png"), str(photos / "a.png"), str(photos / "not there.png")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "there are no photos in empty"),
        ("photos/*.bmp", r"photos/\*.bmp matches no file"),
        ("none.csv", "cannot read none.csv: No such file"),
        ("wrong.csv", "wrong.csv has no column of paths: name one path, file, image or filename"),
        ("empty.txt", "empty.txt lists no pictures"),
        ("wrong.parquet", "wrong.parquet"),
        ("latin.txt", "latin.txt is no list of pictures"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_a_source_without_pictures_is_named(source, message):
    Path("empty").mkdir()
    Path("wrong.csv").write_text("a,b\n1,2\n")
    Path("empty.txt").write_text("\n")
    Path("wrong.parquet").write_bytes(b"no table")
    Path("latin.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigError, match=message):
        list_photos([source], {})


@pytest.mark.usefixtures("photos")
def test_names_are_unique_on_every_system_and_stay_what_they_were():
    photos = list_photos(["photos"], {})
    assert [photo.name for photo in photos] == ["a", "a~2", "broken", "c", "sub/a", "sub/b"]
    other = list_photos(["photos/sub/a.jpg", "photos/A.JPG", "photos"], {photo.path: photo.name for photo in photos})
    assert {(photo.path, photo.name) for photo in photos} < {(photo.path, photo.name) for photo in other}
    assert [photo.name for photo in other if photo.path == "photos/A.JPG"] == ["A~3"]


@pytest.mark.parametrize(
    "name", ["../../etc/x.png", "/etc/x.png", "a\nb.png", "..", "<b>.png", ".hidden.png", "x" * 300]
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    (tmp_path / "list.txt").write_text(name.replace("\n", "\r") + "\n")
    for photo in list_photos([str(tmp_path / "list.txt")], {}):
        target = (tmp_path / "out" / f"{photo.name}.jpg").resolve()
        assert tmp_path / "out" in target.parents
        assert photo.name.isprintable()
        assert "<" not in photo.name
        assert max(map(len, Path(photo.name).parts)) <= 80


def test_large_files_are_not_read_far_ahead(tmp_path, monkeypatch):
    """64 scans of 100 MB, which a run with --url lets through, would be 6.4 GB."""
    monkeypatch.setattr("camserve.bulk.reading.AHEAD_BYTES", 10_000_000)
    photos = [Photo(str(tmp_path / f"{number}.tif"), str(number)) for number in range(20)]
    for photo in photos:
        Path(photo.path).write_bytes(bytes(3_000_000))
    tracemalloc.start()
    read = [loaded.photo.name for loaded in read_ahead(photos)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == [photo.name for photo in photos]
    assert peak < 20_000_000


def test_what_cannot_be_read_is_said_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "long.png").write_bytes(bytes(11))
    (tmp_path / "fits.png").write_bytes(bytes(10))
    names = ("pipe.png", "long.png", "absent.png", "fits.png", "nul\0.png")
    read = list(read_ahead([Photo(str(tmp_path / name), name) for name in names], 10))
    assert [picture.code for picture in read] == [UNREADABLE, "too_many_bytes", UNREADABLE, "", UNREADABLE]
    assert "No such file" in read[2].message
    assert read[3].content == bytes(10)
    assert load(Photo(str(tmp_path), "folder")).code == UNREADABLE


def test_addresses_of_other_file_systems_are_listed_and_read(photos):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/store/b/two.png", b"2")
    memory.pipe("/store/one.JPG", b"1")
    memory.pipe("/store/notes.txt", b"3")
    found = list_photos(["memory://store"], {})
    assert [photo.name for photo in found] == ["b/two", "one"]
    assert [load(photo).content for photo in found] == [b"2", b"1"]
    assert load(found[0], 0).code == "too_many_bytes"
    local = list_photos([photos.as_uri()], {})
    assert [photo.name for photo in local] == ["a", "a~2", "broken", "c", "sub/a", "sub/b"]
    assert load(local[2]).content == b"no picture"
    (photos / "list.txt").write_text(f"{local[2].path}\nc.png\n")
    assert paths(str(photos / "list.txt")) == [local[2].path, str(photos / "c.png")]
    absent = load(Photo(f"{photos.as_uri()}/none.png", "none"))
    assert absent.code == UNREADABLE
    assert "none.png" in absent.message


@pytest.mark.parametrize(
    ("uri", "message"),
    [("nosuch://x", "nosuch:// cannot be read"), ("file:///nowhere/at/all", "cannot list file:///nowhere/at/all")],
)
def test_an_address_that_leads_nowhere_is_named(uri, message):
    with pytest.raises(ConfigError, match=message):
        list_photos([uri], {})
