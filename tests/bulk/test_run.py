"""camserve explain over many pictures, with an archive."""

import csv
import itertools
import json
import re
import signal
import subprocess
import zipfile
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from camserve.build.progress_line import ProgressLine, format_seconds
from camserve.bulk.folder import open_run, read_spec
from camserve.bulk.rows import RunStopped
from camserve.bulk.run import read_run, say_what_is_kept
from camserve.cli import main
from camserve.errors import ConfigError
from many_photos import COMMAND, explain, wait_for, write_photo

NOBODY = "http://127.0.0.1:9/predictions/pets"  # nothing listens there


def lines_of(out):
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def test_a_broken_and_an_absent_picture_are_named_and_the_rest_goes_on(pets, photos, capsys):
    out = photos.parent / "run"
    assert explain(pets, "photos", "absent.png", "--out", out) == 1
    said = capsys.readouterr().err
    assert re.search(r"^photos/broken.jpg: the picture is not JPEG", said, re.MULTILINE)
    assert re.search(r"^absent.png: No such file", said, re.MULTILINE)
    assert "no answer to 2 of 7 pictures" in said
    rows = lines_of(out)
    assert [row["path"] for row in rows if row["answer"]] == [
        *("photos/a.jpg", "photos/a.png", "photos/c.png", "photos/sub/a.jpg", "photos/sub/b.png")
    ]
    assert {row["error"]["code"] for row in rows if row["error"]} == {"unsupported_format", "unreadable"}
    assert len(list((out / "images").rglob("*.jpg"))) == 5


def test_every_target_and_method_is_written_under_a_name_of_its_own(pets, photos):
    out = photos.parent / "run"
    options = ["--target", "cat,dog", "--method", "gradcam,layercam", "--format", "overlay,mask"]
    assert explain(pets, "photos/a.png", "photos/a.jpg", "--out", out, *options) == 0
    names = sorted(path.name for path in (out / "images").iterdir())
    assert len(names) == 2 * 2 * 2 * 2
    assert "a-1-cat-gradcam-overlay.jpg" in names
    assert "a~2-4-dog-layercam-mask.jpg" in names


def test_a_contrast_and_other_evidence_are_in_the_name(pets, photos):
    out = photos.parent / "run"
    options = ["--target", "cat", "--contrast", "dog", "--evidence", "signed"]
    assert explain(pets, "photos/c.png", "--out", out, *options) == 0
    assert [path.name for path in (out / "images").iterdir()] == ["c-1-cat-gradcam-not-dog-signed.jpg"]


def test_one_photo_is_drawn_into_one_file_with_a_caption(pets, photos, capsys):
    assert explain(pets, "photos/c.png", "--out", "why.png") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  why.png"
    with Image.open("why.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.height > 60 + 40
    assert explain(pets, "photos/c.png", "--out", "bare.png", "--caption", "false") == 0
    with Image.open("bare.png") as drawn:
        assert drawn.size == (80, 60)
    assert explain(pets, "photos/c.png", "--target", "cat,dog", "--out", "two.png") == 0
    assert {path.name for path in Path().glob("two*")} == {"two-1-cat-gradcam.png", "two-2-dog-gradcam.png"}
    assert explain(pets, "photos", "--out", "why.png") == 1
    assert "--out why.png is one picture, and 6 are asked about: name a folder" in capsys.readouterr().err


def test_drawn_here_is_what_the_model_draws(pets, photos, capsys):
    """The picture of the wire, from the grid alone."""
    import base64
    from io import BytesIO

    import numpy as np

    options = ["--evidence", "against", "--target", "dog", "--caption", "true", "--size", "300"]
    assert explain(pets, "photos/c.png", "--json", "--format", "overlay", *options) == 0
    answer = json.loads(capsys.readouterr().out)
    uri = answer["explanations"][0]["images"]["overlay"]
    theirs = Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert explain(pets, "photos/c.png", "--out", "ours.png", *options) == 0
    with Image.open("ours.png") as ours:
        assert ours.size == theirs.size
        difference = np.abs(np.asarray(ours.convert("RGB"), int) - np.asarray(theirs.convert("RGB"), int))
    assert difference.mean() < 3  # JPEG


def test_answers_are_printed_without_a_folder(pets, photos, capsys):
    assert explain(pets, "photos/c.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["request_id"] == "photos/c.png"
    assert explain(pets, "photos", "--json") == 1
    printed = capsys.readouterr()
    blocks = json.loads(printed.out)
    assert [block.get("error", {}).get("code") for block in blocks].count("unsupported_format") == 1
    assert len(blocks) == 6
    assert explain(pets, "photos/c.png", "photos/a.png") == 0
    assert capsys.readouterr().out.count("strongest at") == 2


def test_a_condition_is_obeyed(pets, photos, capsys):
    assert explain(pets, "photos/c.png", "--json", "--explain", "probability<0.01") == 0
    assert [shown["status"] for shown in json.loads(capsys.readouterr().out)["explanations"]] == ["skipped"]


def test_a_run_goes_on_where_it_was_ended_and_asks_again_about_what_failed(pets, photos):
    out = photos.parent / "run"
    explain(pets, "photos/a.png", "photos/broken.jpg", "--out", out)
    first = (out / "answers.jsonl").read_text()
    with (out / "answers.jsonl").open("a") as file:
        file.write('{"path": "photos/c.png", "na')  # ended over it
    write_photo(photos / "broken.jpg", 9)
    assert explain(pets, "photos", "--out", out) == 0
    text = (out / "answers.jsonl").read_text()
    assert text.startswith(first.splitlines()[0] + "\n")
    assert sorted(row["path"] for row in lines_of(out)) == sorted(
        str(path.relative_to(photos.parent)) for path in photos.rglob("*.*")
    )
    assert all(row["answer"] for row in lines_of(out))
    assert explain(pets, "photos", "--out", out) == 0
    assert (out / "answers.jsonl").read_text() == text


def test_a_folder_of_another_run_is_refused(pets, photos, capsys):
    out = photos.parent / "run"
    assert explain(pets, "photos/c.png", "--out", out) == 0
    before = (out / "answers.jsonl").read_text()
    for options, what in (
        (["--target", "dog"], "options"),
        (["--save", "parquet"], r"kind \(--save, --grid\)"),
    ):
        assert explain(pets, "photos/c.png", "--out", out, *options) == 1
        assert re.search(f"holds the run of another {what}: name another --out", capsys.readouterr().err)
    assert main(["explain", "photos/c.png", "--url", NOBODY, "--out", str(out)]) == 1
    assert "another archive or address" in capsys.readouterr().err
    assert explain(pets, "photos/c.png", "--out", out, "--palette", "viridis") == 0  # it is drawn here
    assert (out / "answers.jsonl").read_text() == before


def test_two_runs_do_not_write_into_one_folder(pets, photos, capsys):
    out = photos.parent / "run"
    assert explain(pets, "photos/c.png", "--out", out) == 0
    with open_run(out, read_spec(out)):
        assert explain(pets, "photos/c.png", "--out", out) == 1
    assert "another run writes into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "cow"], "no class is called 'cow'"),
        (["--method", "gradcan"], "did you mean 'gradcam'"),
        (["--format", "overlai"], "did you mean 'overlay'"),
        (["--size", "2"], "must be 16 to"),
        (["--save", "pdf", "--out", "run"], "--save 'pdf' is not one of: images, gallery, sheet, csv, jsonl, parquet"),
        (["--compat", "torchserve"], "answers without maps"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_a_mistake_is_told_before_the_archive_is_loaded(pets, tmp_path, capsys, options, message):
    bare = tmp_path / "bare.mar"  # which cannot be loaded
    with zipfile.ZipFile(pets) as whole, zipfile.ZipFile(bare, "w") as stripped:
        for entry in whole.infolist():
            if not entry.filename.endswith((".safetensors", ".py")):
                stripped.writestr(entry, whole.read(entry))
    assert explain(bare, "photos/c.png", *options) == 1
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evidence", "foor"], "did you mean 'for'"),
        (["--opacity", "2"], "must be 0 to 1"),
        (["--channels", "best"], "option 'channels' takes all, numbers such as 3,17"),
        ([], "is the server running?"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_a_mistake_is_told_before_anything_is_sent(capsys, options, message):
    assert main(["explain", "photos/c.png", "--url", NOBODY, *options]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_usage_errors_say_what_to_do(pets, photos):
    for arguments in (["--save", "csv"], ["--json", "--out", "run"], ["--workers", "0"]):
        with pytest.raises(SystemExit) as stopped:
            explain(pets, "photos/c.png", *arguments)
        assert stopped.value.code == 2


def test_a_table_has_a_line_for_every_map_and_runs_no_formula(pets, photos):
    write_photo(photos / "=1+1.png", 7)
    out = photos.parent / "run"
    explain(pets, "photos", "--out", out, "--save", "csv", "--target", "cat,dog")
    with (out / "answers.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 * 2 + 1
    assert [line["error"] for line in lines].count("unsupported_format") == 1
    first = next(line for line in lines if line["path"] == "photos/c.png")
    assert (first["target"], first["method"], first["status"]) == ("cat", "gradcam", "ok")
    assert explain(pets, "=1+1.png", "--out", "absent", "--save", "csv") == 1
    assert Path("absent/answers.csv").read_text().splitlines()[1].startswith("'=1+1.png,unreadable")


def test_show_draws_chosen_pictures_of_a_run(pets, photos, capsys):
    explain(pets, "photos", "--out", "run", "--save", "csv")
    assert main(["show", "run", "--path", "*/sub/*", "--save", "images,sheet", "--out", "chosen"]) == 0
    assert sorted(path.name.partition("-")[0] for path in Path("chosen/images").rglob("*.jpg")) == ["a", "b"]
    assert Path("chosen/sheet.png").exists()
    assert main(["show", "run", "--failed", "--save", "csv", "--out", "failed"]) == 0
    assert len(Path("failed/answers.csv").read_text().splitlines()) == 2
    assert main(["show", "run", "--class", "no such class", "--out", "none"]) == 1
    assert main(["show", "photos"]) == 1
    assert "photos holds no run of camserve explain" in capsys.readouterr().err


def test_a_photo_that_was_changed_or_deleted_is_not_drawn(pets, photos, capsys):
    explain(pets, "photos", "--out", "run", "--save", "csv")
    (photos / "a.png").unlink()
    write_photo(photos / "c.png", 3, size=(90, 60))
    write_photo(photos / "a.jpg", 3, size=(60, 80))
    assert main(["show", "run"]) == 0
    said = capsys.readouterr().err
    assert "photos/a.png: No such file or directory: its maps are not drawn" in said
    for name in ("c.png", "a.jpg"):
        assert f"photos/{name} is another picture than the one explained" in said
    assert len(list(Path("run/images").rglob("*.jpg"))) == 2


def test_a_run_of_somebody_else_writes_nothing_outside_of_its_folder(pets, photos, capsys):
    explain(pets, "photos/c.png", "--out", "run", "--save", "csv")
    text = Path("run/answers.jsonl").read_text()
    Path("run/answers.jsonl").write_text(text.replace('"name":"c"', '"name":"../../stolen"'))
    assert main(["show", "run"]) == 1
    assert "the run names a file outside of run/images: '../../stolen-" in capsys.readouterr().err
    assert not list(Path().glob("stolen*"))


def test_a_damaged_journal_is_named(pets, photos, capsys):
    explain(pets, "photos/c.png", "--out", "run", "--save", "csv")
    Path("run/answers.jsonl").write_text("{}\n")
    assert explain(pets, "photos/c.png", "--out", "run") == 1
    assert "answers.jsonl, line 1, is no row of camserve explain" in capsys.readouterr().err


@pytest.mark.server
def test_ctrl_c_says_what_is_kept_and_the_run_goes_on(pets, photos):
    for number in range(400):
        write_photo(photos / "many" / f"{number}.jpg", number)
    command = [*COMMAND, "explain", "photos/many", "--archive", str(pets), "--out", "run"]
    journal = Path("run/answers.jsonl")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: journal.exists() and journal.stat().st_size > 0, process)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1].endswith("ended: what was answered is kept in run; the same command goes on")
    assert "Traceback" not in said
    kept = len(list(read_run(Path("run"))))
    assert 0 < kept < 400
    assert explain(pets, "photos/many", "--out", "run", "--save", "csv") == 0
    assert sorted(row.photo.path for row in read_run(Path("run"))) == sorted(
        f"photos/many/{number}.jpg" for number in range(400)
    )


def test_progress_counts_and_says_how_long_it_takes(capsys):
    now = 0.0
    progress = ProgressLine(100, clock=lambda: now)
    for _ in range(10):
        now += 4.0
        progress.add(2, 0)
    progress.add(0, 1)
    assert progress.line() == "20 of 100 pictures, 0.5/s, 3 min left, 1 failed"
    assert capsys.readouterr().err == "16 of 100 pictures, 0.5/s, 3 min left\n"
    assert [format_seconds(seconds) for seconds in (42.2, 180, 19_200)] == ["42 s", "3 min", "5 h 20 min"]


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("end", [KeyboardInterrupt, RunStopped])
def test_a_run_that_ends_takes_its_line_of_progress_off_the_terminal(end):
    terminal = Terminal()
    progress = ProgressLine(100, terminal, clock=itertools.count().__next__)
    progress.add(1, 0)
    assert terminal.getvalue().startswith("\r1 of 100 pictures")
    with pytest.raises(end), say_what_is_kept(progress, Path("run")):
        raise end
    assert terminal.getvalue().endswith("\x1b[K\r\x1b[K")


def test_a_folder_that_cannot_be_written_is_said(pets, photos):
    Path("file").write_text("")
    with pytest.raises(ConfigError, match="cannot write into file/run"), open_run(Path("file/run"), None):
        pass
