"""Answers as Parquet files: whole or not there, the same as those of a journal, read by others' tools."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from camserve.build.mar.unpack import read_contents
from camserve.bulk.columns import as_utf8, from_columns, make_schema, to_columns
from camserve.bulk.outputs import OUTPUTS
from camserve.bulk.rows import Row
from camserve.bulk.run import Job, read_run
from camserve.bulk.shards import divide_into_shards
from camserve.bulk.sources import Photo, list_photos
from camserve.cli import main
from camserve.drift.audit_log import read_audit
from camserve.drift.run_records import read_shard
from many_photos import COMMAND, explain, wait_for, write_photo

GREATEST = {"uint8": 0.5 / 127, "float16": 2**-11}  # errors of a map's value


def by_path(out):
    return {row.photo.path: row for row in read_run(Path(out))}


@pytest.mark.usefixtures("workers_here")
@pytest.mark.parametrize("grid", GREATEST)
def test_shards_hold_what_a_journal_holds(pets, runs, grid):
    if grid != "uint8":
        shutil.rmtree("shards")
        options = ["--target", "cat,dog", "--evidence", "signed", "--method", "gradcam,layercam", "--grid", grid]
        assert explain(pets, "photos", "absent.png", "--out", "shards", "--save", "parquet", *options) == 1
    one, other = by_path("journal"), by_path("shards")
    assert one.keys() == other.keys()
    for path, row in one.items():
        assert row.error == other[path].error
        assert row.photo == other[path].photo
        assert (row.answer is None) == (other[path].answer is None)
        if row.answer is not None:
            compare_answers(row.answer, other[path].answer, GREATEST[grid])


def compare_answers(one, other, greatest):
    """Scores differ by what sums in other batches do, maps by their levels."""
    shown, others = (answer.pop("explanations") for answer in (one, other))
    for answer in (one, other):
        for prediction in answer["predictions"]:
            prediction["probability"] = round(prediction["probability"], 3)
            prediction["score"] = round(prediction["score"], 2)
    assert one == other
    for before, after in zip(shown, others, strict=True):
        assert before.keys() == after.keys()
        assert np.abs(np.array(before["grid"]) - np.array(after["grid"])).max() <= greatest + 2e-3
        assert before["target"].keys() == after["target"].keys()
        for name in ("status", "method", "layer", "evidence"):
            assert before[name] == after[name]


@pytest.mark.parametrize("grid", GREATEST)
@pytest.mark.parametrize("evidence", ["for", "against", "signed"])
def test_a_map_is_as_exact_as_its_type_and_zero_stays_zero(grid, evidence):
    values = np.random.default_rng(0).uniform(-1 if evidence == "signed" else 0, 1, (5, 7)).round(4)
    values[0, :3] = (0, 1, -1 if evidence == "signed" else 0)
    prediction = {"index": 1, "label": "dog", "probability": 0.5, "score": 1.25}
    explanation = {
        **{"status": "ok", "method": "gradcam", "layer": "a", "evidence": evidence, "contrast": None, "scale": 2.5},
        **{
            "target": {**prediction, "asked": "dog"},
            "grid": values.tolist(),
            "strength": None,
            "boxes": [[1, 2, 3, 4]],
        },
        **{"images": {}, "balance": {"positive": 1.0, "negative": None, "share_of_score": None}, "signs": {"pp": 1.0}},
    }
    answer = {
        "model": {"name": "m"},
        "request_id": "a.png",
        "input": {"width": 8, "height": 6, "format": "PNG", "region": [0, 0, 8.5, 6]},
        "predictions": [prediction],
        "explanations": [explanation],
        "warnings": [{"code": "A", "message": "a", "explanation": 0}, {"code": "B", "message": "b"}],
    }
    row = Row(Photo("a.png", "a"), answer)
    table = pa.Table.from_pylist([to_columns(row, grid)], make_schema(grid, {}))
    read = from_columns(table.to_pylist()[0], {"name": "m"})
    restored = np.array(read.answer["explanations"][0].pop("grid"))
    explanation.pop("grid")
    assert read == row
    assert np.abs(restored - values).max() <= GREATEST[grid] + 1e-4
    assert (restored[values == 0] == 0).all()
    assert (np.abs(restored[np.abs(values) == 1]) == 1).all()


def test_other_tools_read_a_run(runs):
    import duckdb
    import pandas

    _, out = runs
    pattern = str(out / "shards" / "*.parquet")
    table = pandas.concat(pandas.read_parquet(path) for path in sorted((out / "shards").iterdir()))
    assert len(table) == 7
    assert set(table[table.error_code.notna()].error_code) == {"unsupported_format", "unreadable"}
    counted = duckdb.sql(f"select label, count(*) from '{pattern}' where error_code is null group by label").fetchall()
    assert sum(count for _, count in counted) == 5
    shown = duckdb.sql(
        f"select path, signals.energy, unnest(maps, recursive := true) from '{pattern}' where error_code is null"
    ).df()
    assert len(shown) == 5 * 4
    first = shown.iloc[0]
    raw = (np.array(first.grid, float) - first.zero) * first.step * first.scale
    assert raw.reshape(int(first.rows), int(first.columns)).shape == (7, 7)
    block = parquet.read_schema(next((out / "shards").iterdir())).metadata[b"camserve"]
    assert json.loads(block)["schema"] == 1


def test_a_run_is_read_as_an_audit_log_is(runs):
    one, other = (read_audit([out]) for out in runs)
    assert {record.request_id for record in one} == {record.request_id for record in other}
    assert sorted({record.outcome for record in one}) == ["ok", "unsupported_format"]
    assert len(one) == 6  # nobody saw the absent one
    for record, same in zip(*(sorted(records, key=lambda record: record.request_id) for records in (one, other))):
        assert (record.outcome, record.model, record.version, record.weights) == (
            *(same.outcome, same.model, same.version, same.weights),
        )
        assert record.input == same.input
        assert list(record.flags) == list(same.flags)
        assert list(record.explanations) == list(same.explanations)
        assert record.signals == pytest.approx(same.signals, abs=2e-3, rel=2e-3)
        assert [best["index"] for best in record.predictions] == [best["index"] for best in same.predictions]


def test_an_audit_command_reads_a_run(runs, capsys):
    rows = by_path(runs[1]).values()
    truth = "".join(f"{row.photo.path},{row.answer['predictions'][0]['index']}\n" for row in rows if row.answer)
    Path("truth.csv").write_text("request_id,class_index\n" + truth)
    for out in runs:
        assert main(["audit", "score", str(out), "--labels", "truth.csv"]) == 0
        assert "accuracy 1.000" in capsys.readouterr().out
        assert main(["audit", "to-parquet", str(out), "--out", "records.parquet"]) == 0


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("*.parquet")}


@pytest.mark.usefixtures("workers_here")
def test_shards_that_are_there_are_not_made_again(pets, runs, photos):
    _, out = runs
    before = stamps(out)
    (out / "shards" / ".killed.parquet.7.part").write_bytes(b"half")
    write_photo(photos / "between.png", 8)
    options = ["--target", "cat,dog", "--evidence", "signed", "--method", "gradcam,layercam"]
    assert explain(pets, "photos", "--out", out, "--save", "parquet,csv", "--shard-size", "3", *options) == 0
    after = stamps(out)
    assert before.items() < after.items()
    assert len(after) == len(before) + 1
    assert not list((out / "shards").glob(".*"))
    assert len(by_path(out)) == 8 == len(list(read_run(out)))


def test_a_shard_is_named_by_what_its_answers_rest_on(pets, runs):
    write_photo(Path("0.png"), 9)
    asked = {"target": "cat,dog", "evidence": "signed", "method": "gradcam,layercam"}

    def names(grid="uint8", sources=("photos", "absent.png"), **options):
        job = Job(list(sources), {**asked, **options}, pets, read_contents(pets))
        return {
            shard.path.name
            for shard in divide_into_shards(list_photos(job.sources, {}), Path("other"), job.spec(), grid, 2)
        }

    made = set(stamps(runs[1]))
    assert names() == names(palette="jet") == made  # the palette is none of it
    others = [names(target="dog"), names("float16"), names(sources=("0.png", "photos", "absent.png"))]
    assert not made & set().union(*others)
    assert len(set().union(made, *others)) == 4 * len(made)


def many(photos, count):
    for number in range(count):
        write_photo(photos / "many" / f"{number}.jpg", number)
    return [*COMMAND, "explain", "photos/many", "--out", "run", "--save", "parquet", "--shard-size", "20"]


@pytest.mark.server
def test_a_worker_that_is_killed_costs_its_shard_a_second_time_and_nothing_else(pets, photos):
    command = [*many(photos, 400), "--archive", str(pets), "--workers", "2"]
    shards = Path("run/shards")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(list(shards.glob("*.parquet"))) > 2, process)
        workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in str(child.cmdline())]
        workers[0].kill()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "a worker was ended" in said
    assert sorted(row.photo.path for row in read_run(Path("run"))) == sorted(
        f"photos/many/{number}.jpg" for number in range(400)
    )


GROWN = """
import sys
from pathlib import Path
from camserve.build.mar.unpack import unpacked
from camserve.bulk.reading import Loaded
from camserve.bulk.sources import Photo
from camserve.bulk.workers import BYTES_OF_A_WORKER, load_asker
from camserve.serving import heap

archive, photo = map(Path, sys.argv[1:])
with unpacked(archive) as (contents, folder):
    ask = load_asker(folder, contents, {}, 1)
    assert heap._limit >= BYTES_OF_A_WORKER
    heap._limit = heap._resident() + 50_000_000
    blocks = [b"x" * (2 << 20) for _ in range(150)]
    above = bytes(100)
    del blocks
    before = heap._resident()
    (row,) = ask([Loaded(Photo(str(photo), "a"), photo.read_bytes())])
    assert row.error is None
    print((before - heap._resident()) // 1_000_000)
"""


@pytest.mark.server
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no Linux")
def test_a_worker_of_a_run_gives_back_what_a_batch_took(pets, photos):
    done = subprocess.run(
        [sys.executable, "-c", GROWN, pets, photos / "a.png"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 200


@pytest.mark.server
def test_a_run_that_is_killed_leaves_whole_shards_and_no_workers(pets, photos):
    command = [*many(photos, 400), "--archive", str(pets)]
    shards = Path("run/shards")
    with subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(shards.glob("*.parquet"))) > 2, process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert len(gone) >= 2
    assert not alive
    kept = stamps(Path("run"))
    assert all(len(list(read_shard(shards / name))) == 20 for name in kept)
    subprocess.run([*command, "--workers", "1"], check=True, capture_output=True)
    assert kept.items() < stamps(Path("run")).items()
    assert len(by_path("run")) == 400 == len(list(read_run(Path("run"))))


@pytest.mark.server
def test_ctrl_c_loses_the_shards_in_flight_alone(pets, photos):
    command = [*many(photos, 400), "--archive", str(pets), "--workers", "2"]
    shards = Path("run/shards")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(lambda: len(list(shards.glob("*.parquet"))) > 2, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "ended: what was answered is kept in run; the same command goes on"
    assert all(len(list(read_shard(path))) == 20 for path in shards.glob("*.parquet"))


@pytest.mark.server
def test_an_archive_that_does_not_load_is_said_in_one_line(pets, photos, tmp_path, capsys):
    import zipfile

    with zipfile.ZipFile(pets) as whole, zipfile.ZipFile(tmp_path / "bad.mar", "w") as changed:
        for entry in whole.infolist():
            content = whole.read(entry)
            changed.writestr(entry, b"no weights" if entry.filename.endswith(".safetensors") else content)
    assert explain(tmp_path / "bad.mar", "photos", "--out", "run", "--save", "parquet") == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_name_that_is_no_utf8_is_kept():
    assert as_utf8("b\udcff\x00") == "b\\udcff\x00"


@pytest.mark.server
def test_without_pyarrow_one_line_says_what_to_install(photos, pets):
    run = ["--archive", str(pets), "--out", "run"]
    commands = [
        ["explain", "photos/c.png", *run, "--save", "parquet"],
        ["explain", "paths.parquet", *run],
        ["explain", "s3://lake/photos", *run],
        ["explain", "photos/c.png", *run, "--save", "csv"],
    ]
    script = (
        "import sys; sys.modules['pyarrow'] = None; from camserve.cli import main\n"
        f"print([main(command) for command in {commands}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[1, 1, 1, 0]", done.stderr
    refusals = [line for line in done.stderr.splitlines() if "pyarrow" in line]
    assert refusals == [
        f"camserve: {said} needs pyarrow: pip install 'camserve[bulk]'"
        for said in ("--save parquet", "paths.parquet", "s3://")
    ]
    assert "Traceback" not in done.stderr


def test_the_page_names_every_column_and_every_thing_that_is_written():
    page = (Path(__file__).parents[2] / "docs" / "bulk.md").read_text()
    tables = [re.findall(r"^\| (`[^|]*) \|", part, re.MULTILINE) for part in page.split("\n## ")]
    _, _, written, parquet_table, *_ = (
        [name for row in rows for name in re.findall("`([^`]+)`", row)] for rows in tables
    )
    assert written == ["--save", *OUTPUTS, "parquet"]
    assert sorted(parquet_table) == sorted(make_schema("uint8", {}).names)
