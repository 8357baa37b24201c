"""The files of an archive, once a machine."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from camserve.operate.unpack_once import unpack_once


def packed(text):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/b.txt", text)
    return content.getvalue()


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_all_who_ask_get_one_folder_an_archive_and_nothing_else_stays(temporary):
    asked = [packed("one"), packed("two")] * 8
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda content: unpack_once(io.BytesIO(content)), asked))
    assert [(folder / "a/b.txt").read_text() for folder in folders] == ["one", "two"] * 8
    assert sorted(temporary.iterdir()) == sorted(set(folders))
    assert len(set(folders)) == 2


def test_files_that_somebody_else_could_have_put_there_are_not_run(temporary):
    folder = unpack_once(io.BytesIO(packed("one")))
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="is not this user's alone"):
        unpack_once(io.BytesIO(packed("one")))
    folder.rename(temporary / "elsewhere")
    folder.symlink_to(temporary / "elsewhere")
    with pytest.raises(PermissionError):
        unpack_once(io.BytesIO(packed("one")))


def test_what_is_no_archive_leaves_nothing_behind(temporary):
    with pytest.raises(zipfile.BadZipFile):
        unpack_once(io.BytesIO(b"nothing"))
    assert list(temporary.iterdir()) == []
