"""Explain thousands of pictures by every engine of camserve explain, and compare the rows.

Among the pictures are corrupt and absent ones, and a tenth lies in an S3 stand-in (moto). In each run a worker is
killed, then the command itself, and the same command goes on. Needs moto's server and Ray.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pyarrow import fs

from camserve.cli.terminal import say
from camserve.drift.run_records import read_shard
from camserve.operate.ports import free_ports
from stress_runs import format_table, write_stress_table

PAGE = Path("docs/bulk.md")
MARK = "bulk runs"
COMMAND = [sys.executable, "-c", "import sys; from camserve.cli import main; sys.exit(main(sys.argv[1:]))"]
WORKERS = {"local": "spawn_main", "ray": "ray::make_shard"}  # what is in the command line of an engine's worker
CORRUPT, ABSENT = 5, 5
REMOTE = 10  # every tenth picture lies in S3
SHARD = 100
CLOCKS = ("time", "timing_ms")  # columns that differ from run to run
LONGEST = 3600.0  # seconds of one command
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class Use:
    """What the processes of a run took."""

    seconds: dict[int, float] = field(default_factory=dict)  # of CPU, by process
    peak: int = 0  # bytes of all together, shared memory counted once
    wall: float = 0.0

    def look(self, root: psutil.Process) -> None:
        """Measure all processes now."""
        memory = 0
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self.seconds[process.pid] = times.user + times.system
                memory += process.memory_full_info().pss
        self.peak = max(self.peak, memory)


def make_lake(photos: Path, folder: Path, count: int, port: int) -> Path:
    """Return a list of ``count`` pictures, most of them links, and of those that are corrupt or absent."""
    originals = sorted(photos.iterdir())
    store = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    store.create_dir("lake")
    paths = []
    for number in range(count):
        original = originals[number % len(originals)]
        name = f"{number:05}{original.suffix}"
        if number % REMOTE:
            (folder / name).symlink_to(original.resolve())
            paths.append(str(folder / name))
        else:
            with store.open_output_stream(f"lake/{name}") as stream:
                stream.write(original.read_bytes())
            paths.append(f"s3://lake/{name}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1")
    for number in range(CORRUPT):
        (folder / f"corrupt-{number}.jpg").write_bytes(b"no picture")
    broken = [str(folder / f"corrupt-{number}.jpg") for number in range(CORRUPT)]
    absent = [str(folder / f"absent-{number}.jpg") for number in range(ABSENT)]
    every = count // (CORRUPT + ABSENT)
    for number, path in enumerate(broken + absent):
        paths.insert(number * every, path)
    listed = folder / "paths.txt"
    listed.write_text("\n".join(paths) + "\n", encoding="utf-8")
    return listed


@contextmanager
def s3_stand_in() -> Iterator[int]:
    """Yield the port of moto's server while a block runs."""
    port = free_ports(15000, 1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            time.sleep(5)
            yield port
        finally:
            server.kill()


def run(command: list[str], out: Path, engine: str, use: Use, kill_worker: int = 0, kill_run: int = 0) -> int:
    """Run a command and return its exit status; kill a worker, and the run, when so many shards are there."""
    began = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None and time.monotonic() - began < LONGEST:
            use.look(root)
            done = len(list((out / "shards").glob("*.parquet")))
            if kill_worker and done >= kill_worker and (workers := workers_of(root, engine)):
                say(f"{engine}: {done} shards; a worker is killed")
                workers[0].kill()
                kill_worker = 0
            elif kill_run and done >= kill_run:
                say(f"{engine}: {done} shards; the run is killed")
                process.kill()
            time.sleep(1)
        process.kill()
    use.wall += time.monotonic() - began
    return process.returncode


def workers_of(root: psutil.Process, engine: str) -> list[psutil.Process]:
    """Return the processes that make shards."""
    found = []
    for child in root.children(recursive=True):
        with suppress(psutil.Error):
            if WORKERS[engine] in " ".join(child.cmdline()):
                found.append(child)
    return found


def rows_of(out: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return every row by its picture's path."""
    return [(row["path"], row) for path in sorted((out / "shards").glob("*.parquet")) for row, _ in read_shard(path)]


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the columns in which two rows of a picture differ."""
    return [name for name in one if one[name] != other.get(name)]


def run_engine(engine: str, listed: Path, out: Path, archive: Path, shards: int) -> tuple[Use, int]:
    """Run an engine with its accidents; return what it took, and the exit status in the end."""
    options = ["--out", str(out), "--save", "parquet", "--engine", engine, "--workers", "2", "--shard-size", str(SHARD)]
    command = [*COMMAND, "explain", str(listed), "--archive", str(archive), *options]
    use = Use()
    run(command, out, engine, use, kill_worker=max(1, shards // 5), kill_run=max(2, shards // 2))
    return use, run(command, out, engine, use)


def main() -> None:
    """Run every engine and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("photos", type=Path, help="a folder of pictures, used again and again under other names")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {PAGE}")
    args = parser.parse_args()
    os.environ.update(KEYS)
    results, rows = [], {}
    with tempfile.TemporaryDirectory(prefix="camserve-lake-") as name, s3_stand_in() as port:
        folder = Path(name)
        (folder / "lake").mkdir()
        listed = make_lake(args.photos, folder / "lake", args.count, port)
        asked = Counter(listed.read_text(encoding="utf-8").split())
        for engine in WORKERS:
            use, status = run_engine(engine, listed, folder / engine, args.archive, args.count // SHARD)
            kept = rows_of(folder / engine)
            rows[engine] = dict(kept)
            results.append([engine, *summary(use, kept, asked), str(status)])
            say(" | ".join(results[-1]))
    columns = Counter(name for path, row in rows["local"].items() for name in differing(row, rows["ray"][path]))
    other = {name: number for name, number in columns.items() if name not in CLOCKS}
    header = ["engine", "rows", "each once", "errors", "CPU s", "CPU ms a picture", "peak memory", "wall s", "exit"]
    text = format_table(header, results)
    print(f"{text}\ncolumns that differ, in rows: {dict(columns)}; beside the clocks: {other or 'none'}")
    if args.write:
        write_stress_table(text, PAGE, MARK)


def summary(use: Use, kept: list[tuple[str, dict[str, Any]]], asked: Counter[str]) -> list[str]:
    """Return the columns of one engine."""
    errors = Counter(row["error_code"] for _, row in kept if row["error_code"])
    spent = sum(use.seconds.values())
    named = ", ".join(f"{number} x {code}" for code, number in sorted(errors.items()))
    once = "yes" if Counter(path for path, _ in kept) == asked else "no"
    cost = [f"{spent:.0f}", f"{1000 * spent / len(asked):.0f}", f"{use.peak / 1e9:.1f} GB", f"{use.wall:.0f}"]
    return [str(len(kept)), once, named, *cost]


if __name__ == "__main__":
    main()
