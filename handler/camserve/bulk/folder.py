"""The folder of a run: what it is a run of, and who writes in it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from camserve.bulk.rows import Row, RunStopped
from camserve.errors import ConfigError, first_line

SCHEMA = 1
RUN = "run.json"


@dataclass(frozen=True)
class RunSpec:
    """What a run asks: the same for each of its pictures, and for all that is added to its folder later."""

    asked: str  # the SHA-256 of an archive, or a server's address
    options: Mapping[str, str]
    kept: str  # how: jsonl, or parquet and the type of its maps
    weak_below: Mapping[str, float]  # of each method, the strength below which its maps are drawn weak
    model: Mapping[str, str] | None = None  # name, version, weights; None: not known before the first answer

    def write(self) -> bytes:
        """Return the file run.json."""
        return (json.dumps({"schema": SCHEMA, **vars(self)}, indent=1) + "\n").encode()


def read_spec(out: Path) -> RunSpec:
    """Read a run's folder. ConfigError: it holds no run."""
    try:
        block = json.loads((out / RUN).read_text())
        known = {name: block[name] for name in ("asked", "options", "kept", "weak_below", "model")}
        if block["schema"] != SCHEMA:
            raise ConfigError(f"{out} holds a run of schema {block['schema']}, not {SCHEMA}")
    except OSError as error:
        raise ConfigError(f"{out} holds no run of camserve explain: cannot read {RUN}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        raise ConfigError(f"{out / RUN} is no file of camserve explain") from None
    return RunSpec(**known)


@contextmanager
def open_run(out: Path, spec: RunSpec) -> Iterator[Callable[[Row], None]]:
    """Begin a run in a folder, or go on with it; yields what has to see every row.

    ConfigError: the folder holds a run of another archive, address or options, or somebody writes in it now.
    RunStopped, by what is yielded: the model is another than it was.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / RUN).open("a+") as file:
            _lock(file, out)
            file.seek(0)
            if not file.read():
                _write(file, spec)
            yield _watch_model(file, _check_same(out, spec), out)
    except OSError as error:
        raise ConfigError(f"cannot write into {out}: {first_line(error)}") from None


def _lock(file: IO[str], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"another run writes into {out}: wait for it, or name another --out") from None


def _write(file: IO[str], spec: RunSpec) -> None:
    file.truncate(0)
    file.write(spec.write().decode())
    file.flush()
    os.fsync(file.fileno())


def _check_same(out: Path, spec: RunSpec) -> RunSpec:
    kept = read_spec(out)
    for name, what in (("asked", "archive or address"), ("options", "options"), ("kept", "kind (--save, --grid)")):
        if getattr(kept, name) != getattr(spec, name):
            raise ConfigError(f"{out} holds the run of another {what}: name another --out, or delete the folder")
    return kept


def _watch_model(file: IO[str], kept: RunSpec, out: Path) -> Callable[[Row], None]:
    known = kept.model

    def see(row: Row) -> None:
        nonlocal known
        if row.answer is None:
            return
        if known is None:
            known = row.answer["model"]
            _write(file, replace(kept, model=known))
        elif known != row.answer["model"]:
            raise RunStopped(f"the model is another than that of the answers in {out}: name another --out")

    return see
