"""Files are written whole or not at all."""

import pytest

from camserve.build.write_file import remove_unfinished, write_text, write_whole
from camserve.errors import ConfigError


def test_a_file_that_is_not_finished_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, lambda unfinished: unfinished.write_text("old"))

    def fail(unfinished):
        unfinished.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "old")]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".a.json.7.part", ".b.json.7.part", "a.json"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path, "a.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".b.json.7.part", "a.json"]


def test_a_text_that_cannot_be_written_is_refused(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "text")
    assert (tmp_path / "new" / "a.txt").read_text() == "text"
    with pytest.raises(ConfigError, match=r"cannot write .*b\.txt: File exists"):
        write_text(tmp_path / "new" / "a.txt" / "b.txt", "text")
