"""A disk that is full, for logs and for unpacked archives, costs no client an answer."""

import subprocess
from contextlib import contextmanager

import pytest
import requests

from camserve.operate.server import Server

pytestmark = pytest.mark.server


@contextmanager
def small_disk(folder):
    """Mount a disk of 100 MB while a block runs."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(file):
    """Write until there is no room, not even for a byte."""
    with file.open("wb", buffering=0) as full:
        for size in (1_000_000, 1_000, 1):
            try:
                while full.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def ask(server, photo):
    side = server.inference
    url, options = f"{side.url}/predictions/faulty", {"format": "overlay"}
    return requests.post(url, headers=side.headers, files={"data": photo}, data=options, timeout=30).status_code


def test_a_full_disk_costs_no_answer(faulty_archive, next_ports, tmp_path, coffee):
    with small_disk(tmp_path / "disk") as disk, Server([faulty_archive], disk / "state", next_ports()) as server:
        assert ask(server, coffee) == 200
        fill(disk / "fill")
        with pytest.raises(OSError, match="No space left"), (disk / "one more").open("wb", buffering=0) as more:
            more.write(b"x" * 100_000)
        assert [ask(server, coffee) for _ in range(30)] == [200] * 30
        (disk / "fill").unlink()
        assert ask(server, coffee) == 200
        assert [worker["status"] for worker in server.workers("faulty")] == ["READY"]
