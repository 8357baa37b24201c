"""The audit log's folder is shared, and may go away: files of others are left alone, and each loss is counted."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from camserve.monitor.audit_files import PATTERN, AuditFiles
from camserve.settings import AuditSpec

LINE = b"x" * 99 + b"\n"
LINES_EACH = 5  # of a file
MAX_BYTES = 8 * LINES_EACH * len(LINE)

# Another worker: writes the lines of one file, and stays until its standard input ends.
WORKER = f"""
import sys
from camserve.monitor.audit_files import AuditFiles
from camserve.settings import AuditSpec

files = AuditFiles(AuditSpec(sys.argv[1], max_bytes={MAX_BYTES}, min_free_bytes=0), lambda: print("lost", flush=True))
for line in sys.stdin.buffer:
    files.write(line)
    print("written", flush=True)
files.close()
"""


class Worker:
    """A process that writes the lines it is given."""

    def __init__(self, folder):
        command = [sys.executable, "-c", WORKER, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def write(self, lines=1):
        for _ in range(lines):
            self._process.stdin.write(LINE)
            self._process.stdin.flush()
            assert self._process.stdout.readline() == b"written\n"

    def kill(self):
        self._process.kill()
        self._process.communicate()

    def end(self):
        """Return how many records it lost."""
        said, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        return said.count(b"lost")


@pytest.fixture
def worker(tmp_path):
    started = []

    def start():
        started.append(Worker(tmp_path / "audit"))
        return started[-1]

    yield start
    for running in started:
        running.kill()


@pytest.fixture
def files(tmp_path):
    """The files of this process, and the list of its losses."""
    lost = []
    opened = AuditFiles(
        AuditSpec(str(tmp_path / "audit"), max_bytes=MAX_BYTES, min_free_bytes=0), lambda: lost.append(1)
    )
    yield opened, lost
    opened.close()


def written(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(PATTERN))


def test_two_workers_that_share_a_folder_keep_each_others_open_files(worker, files, tmp_path):
    """The first worker is idle, so that its file is the oldest of the folder when the others need room."""
    idle, busy = worker(), worker()
    idle.write(3)
    (first,) = (tmp_path / "audit").iterdir()
    busy.write(20 * LINES_EACH)
    for _ in range(20 * LINES_EACH):
        files[0].write(LINE)
    assert first.exists()
    idle.write(2)
    assert first.read_bytes() == LINE * 5
    assert (idle.end(), busy.end(), files[1]) == (0, 0, [])
    sizes = [path.stat().st_size for path in (tmp_path / "audit").iterdir()]
    assert sum(sizes) <= MAX_BYTES + 2 * MAX_BYTES // 8
    for _ in range(10 * LINES_EACH):  # all others are closed by now
        files[0].write(LINE)
    assert not first.exists()


def test_the_file_of_a_worker_that_was_killed_is_deleted_in_its_turn(worker, files, tmp_path):
    dead = worker()
    dead.write()
    (first,) = (tmp_path / "audit").iterdir()
    dead.kill()
    for _ in range(10 * LINES_EACH):
        files[0].write(LINE)
    assert not first.exists()


def test_a_deleted_file_is_replaced_and_its_records_are_counted(files, tmp_path):
    audit, lost = files
    for _ in range(3):
        audit.write(LINE)
    (first,) = (tmp_path / "audit").iterdir()
    first.unlink()
    audit.write(LINE)
    assert len(lost) == 3
    assert written(tmp_path / "audit") == 1
    next((tmp_path / "audit").iterdir()).unlink()
    audit.close()
    assert len(lost) == 4


def test_a_file_that_was_moved_is_left_and_nothing_is_lost(files, tmp_path):
    audit, lost = files
    audit.write(LINE)
    (first,) = (tmp_path / "audit").iterdir()
    first.rename(tmp_path / "moved")
    audit.write(LINE)
    assert (tmp_path / "moved").read_bytes() == LINE
    assert written(tmp_path / "audit") == 1
    assert lost == []


def test_a_folder_that_goes_away_is_made_again(files, tmp_path):
    audit, lost = files
    audit.write(LINE)
    audit.write(LINE)
    shutil.rmtree(tmp_path / "audit")
    audit.write(LINE)
    assert len(lost) == 2
    assert written(tmp_path / "audit") == 1
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700


def test_links_and_folders_that_look_like_logs_are_passed_over(files, tmp_path):
    audit, lost = files
    audit.write(LINE)
    elsewhere = tmp_path / "precious"
    elsewhere.write_text("kept")
    (tmp_path / "audit" / "audit-0-link.jsonl").symlink_to(elsewhere)
    (tmp_path / "audit" / "audit-0-dangling.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "audit" / "audit-0-folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "audit" / "audit-0-pipe.jsonl")
    for _ in range(10 * LINES_EACH):
        audit.write(LINE)
    assert elsewhere.read_text() == "kept"
    assert lost == []


def refusal(files):
    with pytest.raises(OSError) as caught:
        files[0].write(LINE)
    return str(caught.value)


def test_a_folder_that_others_may_change_is_refused_until_it_is_mended(files, tmp_path):
    folder = tmp_path / "audit"
    folder.mkdir()
    for mode in (0o777, 0o1777, 0o770):
        folder.chmod(mode)
        assert refusal(files) == f"others may write in {folder}: chmod 700 it, or name a new folder in it"
    folder.chmod(0o755)
    files[0].write(LINE)
    assert written(folder) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(files, tmp_path):
    (tmp_path / "audit").mkdir(0o700)
    os.chown(tmp_path / "audit", 12345, -1)
    assert refusal(files) == f"{tmp_path / 'audit'} belongs to user 12345, not to {os.geteuid()}"


def test_a_dangling_link_in_the_place_of_the_folder_is_named(files, tmp_path):
    (tmp_path / "audit").symlink_to(tmp_path / "later")
    assert refusal(files) == f"{tmp_path / 'audit'} is a link to a folder that is missing"
    (tmp_path / "later").mkdir(0o700)
    files[0].write(LINE)
    assert written(tmp_path / "later") == 1


def test_a_file_in_the_place_of_the_folder_is_named(files, tmp_path):
    Path(tmp_path / "audit").touch()
    assert refusal(files) == f"{tmp_path / 'audit'} is no folder"
