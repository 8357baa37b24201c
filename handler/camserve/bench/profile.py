"""Where the processor's time of an answer goes on a real TorchServe under load."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import psutil

from camserve.bench.load import RequestAddress, run_closed_loop
from camserve.bench.pairs import spread_of
from camserve.bench.photos import encode_jpegs
from camserve.bench.repack import repack
from camserve.bench.report import BenchReport, Table, format_spread
from camserve.bench.workloads import CONNECTIONS, PHOTOS, WARM_UP_LOAD_SECONDS
from camserve.build.changes import change_config
from camserve.build.mar.file import MANIFEST
from camserve.build.mar.pack import write_config
from camserve.build.mar.unpack import read_contents
from camserve.errors import ConfigError
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.values import Progress

HANDLER, PROFILE = "profiled_handler.py", "profile.json"  # beside this file, and what it writes in a worker's folder
TOTAL, FRONTEND, WORKER = "all", "TorchServe's Java", "the worker"
# What a person reads of each step of the ledger, in the order in which a batch meets them.
STEPS = {
    "wait": "waiting for a batch, its line in the log",
    "receive": "receiving: TorchServe's parser in Python",
    "protocol": "TorchServe's service: rows and headers, its metric",
    "handler": "handler: statuses and content types",
    "rows": "bodies, headers and forms",
    "batch": "pipeline: what no other line names",
    "decode": "decode: options, JPEG, resizing",
    "preprocess": "preprocess: one tensor of all rows",
    "network": "network",
    "forward": "scores, softmax, ranking",
    "explain": "maps",
    "monitor": "monitor and metrics",
    "render": "render: drawing, nothing here",
    "JSON": "JSON",
    "encode": "encoding: TorchServe's message in Python",
    "send": "sending",
}
NETWORK = "network"


@dataclass(frozen=True)
class Turn:
    """What one answer took in one turn of one archive, milliseconds of the processor."""

    frontend: float
    steps: Mapping[str, float]

    @property
    def worker(self) -> float:
        """All that the worker took."""
        return sum(self.steps.values())

    @property
    def outside(self) -> float:
        """What the worker took outside the network."""
        return self.worker - self.steps[NETWORK]


def bench_profile(
    archives: Sequence[Path], rounds: int, seconds: float, command: str, machine: Mapping[str, str], report: Progress
) -> BenchReport:
    """Return the profile of archives, each served by one worker. ConfigError: as for ``measure_profiles``."""
    return make_profile_report(measure_profiles(archives, rounds, seconds, report), command, machine)


def measure_profiles(archives: Sequence[Path], rounds: int, seconds: float, report: Progress) -> dict[str, list[Turn]]:
    """Serve archives side by side and load them in turns. ConfigError: one does not start, or refuses photos."""
    photos = encode_jpegs(PHOTOS)
    turns: dict[str, list[Turn]] = {str(archive): [] for archive in archives}  # each archive once
    with tempfile.TemporaryDirectory(prefix="camserve-profile-") as name:
        servers: dict[str, Server] = {}
        try:
            for number, archive in enumerate(map(Path, turns)):
                report(f"starting the server of {archive}")
                folder = Path(name) / str(number)
                server = Server([_with_profile(archive, folder)], folder / "server", free_ports())
                server.start(lambda _: None)
                servers[str(archive)] = server
                _load(server, photos, WARM_UP_LOAD_SECONDS)
            for number in range(rounds):
                report(f"round {number + 1} of {rounds}")
                for path, server in servers.items():
                    turns[path].append(_measure(server, photos, seconds))
        finally:
            for server in servers.values():
                server.stop()
    return turns


def _with_profile(archive: Path, folder: Path) -> Path:
    """Return a copy of an archive in ``folder`` with one worker, whose handler is that of a profiled one."""
    config = change_config(read_contents(archive).config, [("minWorkers", "1"), ("maxWorkers", "1")])

    def change(unpacked: Path) -> None:
        write_config(config, unpacked)
        copyfile(Path(__file__).with_name(HANDLER), unpacked / HANDLER)
        manifest = json.loads((unpacked / MANIFEST).read_text(encoding="utf-8"))
        manifest["model"]["handler"] = HANDLER
        (unpacked / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    return repack(archive, folder, change)


def _load(server: Server, photos: Sequence[bytes], seconds: float) -> None:
    (model,) = server.models
    client = RequestAddress(f"{server.inference.url}/predictions/{model}", server.inference.headers)
    load = run_closed_loop(client, photos, CONNECTIONS, seconds)
    if load.failed:
        raise ConfigError(f"the server refused {load.failed} photos")


def _measure(server: Server, photos: Sequence[bytes], seconds: float) -> Turn:
    frontend = psutil.Process(server.pid)
    before, java_before = _read(server), frontend.cpu_times()
    _load(server, photos, seconds)
    after, java_after = _read(server), frontend.cpu_times()
    answers = (after["answers"] - before["answers"]) / 1000  # per millisecond
    spent = {step: (after["seconds"][step] - before["seconds"].get(step, 0.0)) / answers for step in after["seconds"]}
    java = java_after.user + java_after.system - java_before.user - java_before.system
    return Turn(java / answers, spent)


def _read(server: Server) -> dict[str, Any]:
    (model,) = server.models
    (worker,) = server.workers(model)
    folder = Path(psutil.Process(int(worker["pid"])).cwd())
    written: dict[str, Any] = json.loads((folder / PROFILE).read_text(encoding="utf-8"))
    return written


def make_profile_report(turns: Mapping[str, Sequence[Turn]], command: str, setting: Mapping[str, str]) -> BenchReport:
    """Return the table of all steps, one column an archive."""
    lines: list[tuple[str, Callable[[Turn], float]]] = [
        (TOTAL, lambda turn: turn.frontend + turn.worker),
        (FRONTEND, lambda turn: turn.frontend),
        (WORKER, lambda turn: turn.worker),
        *((purpose, partial(_step, name=step)) for step, purpose in STEPS.items()),
    ]
    rows = [(name, *(_spread(found, read) for found in turns.values())) for name, read in lines]
    share = [format_spread(spread_of([turn.outside / turn.worker for turn in found])) for found in turns.values()]
    rows.append(("share of the worker's outside the network", *share))
    table = Table("Milliseconds of the processor for one answer", ("step", *_name_columns(list(turns))), rows)
    return BenchReport("profile", command, setting, [table], [], dict(turns))


def _name_columns(paths: Sequence[str]) -> Sequence[str]:
    """Return the archives' names, or their paths where two have one name."""
    names = [Path(path).stem for path in paths]
    return names if len(set(names)) == len(names) else paths


def _step(turn: Turn, name: str) -> float:
    return turn.steps.get(name, 0.0)


def _spread(turns: Sequence[Turn], read: Callable[[Turn], float]) -> str:
    return format_spread(spread_of([read(turn) for turn in turns]))
