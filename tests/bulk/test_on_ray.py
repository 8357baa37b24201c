"""camserve explain --engine ray: the rows of local, whatever ends on the way."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from camserve.bulk.on_ray import MadeShard, check_seen, plan_tasks
from camserve.bulk.rows import RunStopped
from camserve.bulk.run import read_run
from camserve.bulk.shards import Tally
from camserve.bulk.silence import Tasks, describe_tasks
from camserve.cli import main
from camserve.drift.run_records import read_shard
from camserve.operate.ray_here import SETTINGS
from many_photos import COMMAND, wait_for, write_photo

TASK = "ray::make_shard"
CLOCKS = ("time", "timing_ms")  # what differs from run to run
GIB = 1 << 30
NODE = {"CPU": 4.0, "memory": 16.0 * GIB}

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'camserve[ray]'")


@pytest.mark.parametrize(
    ("nodes", "threads", "workers", "shards", "tasks"),
    [
        ([NODE], None, None, 100, Tasks(4, 1, 0)),
        ([NODE], 2, None, 100, Tasks(2, 2, 0)),
        ([NODE], None, 2, 100, Tasks(2, 2, 0)),
        ([NODE], None, 9, 100, Tasks(9, 1, 0)),
        ([NODE], None, None, 1, Tasks(1, 4, 0)),
        ([NODE, NODE], None, 1, 9, Tasks(1, 4, 0)),  # a task runs on one machine
        ([{"CPU": 4.0, "memory": 2.0 * GIB}], None, None, 9, Tasks(1, 4, 0)),
        ([{**NODE, "GPU": 2.0}], None, None, 9, Tasks(2, 2, 1)),
        ([{**NODE, "GPU": 1.0}], None, 4, 9, Tasks(4, 1, 0.25)),
        ([{"CPU": 64.0, "memory": 64.0 * GIB}, {**NODE, "GPU": 1.0}], None, None, 9, Tasks(1, 4, 1)),  # it had 64
        ([{}], None, None, 9, Tasks(1, 1, 0)),  # a cluster that grows when it is asked
    ],
)
def test_a_run_is_spread_over_machines(nodes, threads, workers, shards, tasks):
    assert plan_tasks(nodes, threads, workers, shards) == tasks


@pytest.mark.parametrize(
    ("nodes", "tasks", "count"),
    [
        ([{"CPU": 3.0}, {"CPU": 3.0}], Tasks(3, 2, 0), 2),  # the sum has room for three
        ([NODE, NODE], Tasks(2, 4, 0), 2),
        ([{"CPU": 64.0}, {"CPU": 2.0, "GPU": 1.0}], Tasks(4, 1, 0.25), 2),  # the cores are elsewhere
        ([{"CPU": 8.0, "GPU": 1.0}], Tasks(8, 1, 0.125), 8),
        ([{"CPU": 8.0, "GPU": 1.0}], Tasks(3, 2, 0.3333), 3),
        ([{"CPU": 16.0, "GPU": 1.0}], Tasks(10, 1, 0.1), 10),  # 1.0 // 0.1 is 9
        ([{}], Tasks(1, 1, 0), 0),
    ],
)
def test_workers_run_at_once_where_a_machine_has_all_that_one_asks_for(nodes, tasks, count):
    assert tasks.count_at_once(nodes) == count


def test_a_picture_that_only_the_driver_reads_ends_the_run(tmp_path):
    """It would be a row with an error for good."""
    here = write_photo(tmp_path / "a.png")
    check_seen(MadeShard(b"", Tally(), [str(tmp_path / "absent.png"), str(tmp_path)], "far"))
    with pytest.raises(RunStopped, match=r"a\.png is not to be read on far: "):
        check_seen(MadeShard(b"", Tally(), [str(here)], "far"))


def test_ray_needs_an_archive_shards_and_a_folder(photos, pets, capsys):
    usual = ["explain", "photos", "--engine", "ray"]
    with pytest.raises(SystemExit):
        main([*usual, "--archive", str(pets)])
    assert capsys.readouterr().err.endswith("--engine ray needs --out FOLDER\n")
    one_line = "camserve: --engine ray asks an archive and writes shards: give --archive and --save parquet\n"
    for rest in (["--archive", str(pets), "--save", "csv"], ["--url", "http://127.0.0.1:9/predictions/pets"]):
        assert main([*usual, "--out", "run", *rest]) == 1
        assert capsys.readouterr().err == one_line
    assert not Path("run").exists()


def test_without_ray_one_line_says_what_to_install(photos, pets):
    command = [COMMAND[0], "-c", f"import sys; sys.modules['ray'] = None; {COMMAND[2]}", "explain", "photos/c.png"]
    rest = ["--archive", str(pets), "--out", "run", "--engine", "ray"]
    done = subprocess.run([*command, *rest], capture_output=True, text=True, check=False)
    assert done.stderr == "camserve: --engine ray needs ray: pip install 'camserve[ray]'\n"
    assert done.returncode == 1


def explain_by(engine, pets, *arguments):
    command = [*COMMAND, "explain", *arguments, "--archive", str(pets), "--engine", engine, "--workers", "2"]
    return [*command, "--save", "parquet"]


def rows_of(out):
    """Return what each shard holds, by its name."""
    shards = {path.name: list(read_shard(path)) for path in Path(out, "shards").glob("*.parquet")}
    for rows in shards.values():
        for row, _ in rows:
            for name in CLOCKS:
                row.pop(name)
    return shards


@needs_ray
@pytest.mark.server
def test_the_rows_and_shards_are_those_of_local(pets, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for number in range(34):
        write_photo(photos / "more" / f"{number}.jpg", number)
    options = ["photos", "absent.png", "--shard-size", "7", "--target", "cat,dog", "--method", "gradcam,layercam"]
    for engine in ("local", "ray"):
        done = subprocess.run(
            explain_by(engine, pets, *options, "--out", engine), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1] == "no answer to 2 of 41 pictures"
        assert "Traceback" not in done.stderr
    assert rows_of("ray") == rows_of("local")
    before = {path.name: path.stat().st_mtime_ns for path in Path("ray/shards").iterdir()}
    write_photo(photos / "new.jpg", 50)
    again = explain_by("ray", pets, *options, "--out", "ray")
    assert subprocess.run(again, capture_output=True, check=False).returncode == 0
    after = {path.name: path.stat().st_mtime_ns for path in Path("ray/shards").iterdir()}
    assert before.items() < after.items()
    assert len(after) == len(before) + 1
    assert list((tmp_path / "temporary").iterdir()) == []


def many(photos, pets, count=400):
    for number in range(count):
        write_photo(photos / "many" / f"{number}.jpg", number)
    return explain_by("ray", pets, "photos/many", "--out", "run", "--shard-size", "20")


def each_once(count=400):
    paths = Counter(row.photo.path for row in read_run(Path("run")) if row.error is None)
    return paths == Counter(f"photos/many/{number}.jpg" for number in range(count))


def tasks_below(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.name().startswith(TASK[:15]) or TASK in " ".join(child.cmdline())]


@needs_ray
@pytest.mark.server
def test_a_killed_worker_costs_its_shard_a_second_time_and_nothing_else(pets, photos):
    shards = Path("run/shards")
    with subprocess.Popen(many(photos, pets), stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(list(shards.glob("*.parquet"))) > 2 and tasks_below(process), process)
        tasks_below(process)[0].kill()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "a worker was ended; its shard goes to another" in said
    assert each_once()


@needs_ray
@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ended_run_leaves_whole_shards_and_goes_on(pets, photos, number):
    shards = Path("run/shards")
    command = many(photos, pets)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(lambda: len(list(shards.glob("*.parquet"))) > 2 and tasks_below(process), process)
        workers = tasks_below(process)
        if number == signal.SIGINT:
            for _ in range(2):  # people press it twice
                os.killpg(process.pid, number)
                time.sleep(0.3)
        else:
            process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number], said
    assert "Traceback" not in said
    assert workers
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    kept = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert all(len(list(read_shard(shards / name))) == 20 for name in kept)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert kept.items() < {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}.items()
    assert each_once()


TOKENS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-this-test"}
HEAD = "import ray; ray.__version__ = {version!r} or ray.__version__; from ray.scripts.scripts import main; main()"


@contextmanager
def running_cluster(monkeypatch, *options, version=""):
    """Run a Ray that was there before, perhaps as another version names itself; yield its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for name, value in {**SETTINGS, **TOKENS}.items():
        monkeypatch.setenv(name, value)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of its sockets must be short
    monkeypatch.setenv("TMPDIR", str(folder))
    usual = ["--head", "--port", address.rpartition(":")[2], "--node-ip-address", "127.0.0.1"]
    usual += ["--include-dashboard", "false", "--object-store-memory", "100000000", "--temp-dir", str(folder)]
    command = [sys.executable, "-c", HEAD.format(version=version), "start", *usual, *options, "--block"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as head:
        try:
            assert any("Ray runtime started" in line for line in head.stdout)
            monkeypatch.setenv("RAY_ADDRESS", address)
            yield head
        finally:
            below = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            head.terminate()
            psutil.wait_procs(below, timeout=30)
            shutil.rmtree(folder, ignore_errors=True)


@needs_ray
@pytest.mark.server
def test_a_cluster_makes_shards_and_goes_on_afterwards(pets, photos, monkeypatch):
    """On one core, of which two workers are told."""
    with running_cluster(monkeypatch, "--num-cpus", "1", "--num-gpus", "1") as cluster:
        command = explain_by("ray", pets, "photos", "--out", "run", "--shard-size", "2")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert len(list(read_run(Path("run")))) == 6
        assert cluster.poll() is None
    said = "a worker asks for 1 core and 0.5 of a GPU, and Ray has 1 CPU and 1 GPU on 1 machine"
    assert done.stderr.splitlines()[0] == f"not all of 2 workers run at once: {said}"


def test_a_cluster_that_is_not_there_is_said_in_one_line(pets, photos, monkeypatch):
    """Ray tried for minutes, in lines of its own."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    done = subprocess.run(
        explain_by("ray", pets, "photos", "--out", "run"), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == (
        "camserve: RAY_ADDRESS: nothing answers at 127.0.0.1:9: the connection is refused: start the server, or name "
        "the port that it listens on; without RAY_ADDRESS this machine does the work\n"
    )


@needs_ray
@pytest.mark.server
def test_a_cluster_of_another_version_or_token_is_said_in_one_line(pets, photos, monkeypatch):
    command = explain_by("ray", pets, "photos", "--out", "run")
    with running_cluster(monkeypatch, "--num-cpus", "1", version="2.0.1"):
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token")
        stranger = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,), (refused,) = other.stderr.splitlines(), stranger.stderr.splitlines()
    assert re.fullmatch(r"camserve: the cluster at \S+ has Ray 2\.0\.1 and Python .* run it with the cluster's", line)
    assert refused.endswith(" wants its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN")
    assert (other.returncode, stranger.returncode) == (1, 1)


@needs_ray
@pytest.mark.server
@pytest.mark.parametrize("way", ["killed", "ended"])
def test_a_cluster_that_is_lost_ends_the_run_in_words_of_its_own(pets, photos, monkeypatch, way):
    """Ray ended the command after a minute, in a line of its own or in none."""
    shards = Path("run/shards")
    with (
        running_cluster(monkeypatch, "--num-cpus", "1") as cluster,
        subprocess.Popen(many(photos, pets), stderr=subprocess.PIPE, text=True) as process,
    ):
        wait_for(lambda: len(list(shards.glob("*.parquet"))) > 1, process)
        if way == "killed":
            for one in [*psutil.Process(cluster.pid).children(recursive=True), cluster]:
                one.kill()
        else:
            cluster.terminate()
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1, said
    retried = "a worker was ended; its shard goes to another"
    (line,) = [line for line in said.splitlines() if not line.startswith(("not all of", retried))]
    assert re.match("camserve: (the cluster is lost: |this process was ended without a word; )", line)
    assert line.endswith("the same command goes on")


@needs_ray
@pytest.mark.server
def test_a_cluster_without_room_ends_the_run(pets, photos, monkeypatch):
    """Five minutes are one second here."""
    command = explain_by("ray", pets, "photos", "--out", "run")
    command[2] = f"import camserve.bulk.silence as silence; silence.GROWTH_SECONDS = 1; {command[2]}"
    with running_cluster(monkeypatch, "--num-cpus", "0"):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    room = "a worker asks for 1 core, and Ray has 0 CPUs on 1 machine"
    assert done.stderr.splitlines()[-1] == f"camserve: no room for a worker of pets.mar: {room}: start larger machines"


def test_what_there_is_room_for_is_said_in_words():
    nodes = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 8.0}]
    assert describe_tasks(Tasks(2, 2, 0.5), nodes) == (
        "a worker asks for 2 cores and 0.5 of a GPU, and Ray has 12 CPUs and 2 GPUs on 2 machines"
    )


@needs_ray
@pytest.mark.server
def test_an_archive_that_does_not_load_is_said_in_one_line(pets, photos, tmp_path):
    import zipfile

    with zipfile.ZipFile(pets) as whole, zipfile.ZipFile(tmp_path / "bad.mar", "w") as changed:
        for entry in whole.infolist():
            content = whole.read(entry)
            changed.writestr(entry, b"no weights" if entry.filename.endswith(".safetensors") else content)
    command = explain_by("ray", tmp_path / "bad.mar", "photos", "--out", "run")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
