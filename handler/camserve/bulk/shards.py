"""The answers of a run as Parquet files, each written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from camserve.build.write_file import remove_unfinished, write_whole
from camserve.bulk.columns import as_utf8, from_columns, make_schema, to_columns
from camserve.bulk.folder import RunSpec
from camserve.bulk.rows import Row
from camserve.bulk.sources import Photo
from camserve.drift.run_records import METADATA, SHARD_SCHEMA, read_shard
from camserve.errors import ConfigError, first_line

SIZE = 500  # pictures
SUFFIX = ".parquet"


class Tally(NamedTuple):
    """What became of some pictures."""

    done: int = 0
    failed: int = 0
    first: str = ""  # the first error, in words


class Shard(NamedTuple):
    """One file of a run, and what it is to hold."""

    path: Path
    photos: Sequence[Photo]


def divide_into_shards(photos: Sequence[Photo], folder: Path, spec: RunSpec, grid: str, size: int) -> list[Shard]:
    """Return the shards of pictures that no shard in the folder has yet, each named by all that its answers rest on."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder, f"*{SUFFIX}")  # the folder is locked
    done = read_done(folder)
    left = [photo for photo in photos if as_utf8(photo.path) not in done]
    parts = [left[start : start + size] for start in range(0, len(left), size)]
    return [Shard(folder / f"{_hash(part, spec, grid)}{SUFFIX}", part) for part in parts]


def _hash(photos: Sequence[Photo], spec: RunSpec, grid: str) -> str:
    facts = [SHARD_SCHEMA, spec.asked, sorted(spec.options.items()), grid, [photo.path for photo in photos]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def read_done(folder: Path) -> dict[str, str]:
    """Return the name by path of every picture that a shard in the folder has."""
    names = (read_shard(path, ("path", "name")) for path in _files(folder))
    return {row["path"]: row["name"] for rows in names for row, _ in rows}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)


def encode_shard(rows: Iterable[Row], grid: str) -> tuple[bytes, Tally]:
    """Return the rows of a shard as the bytes of its file, and what became of them."""
    columns: list[dict[str, Any]] = []
    model, errors = None, []
    for row in rows:  # as columns at once: a map at the input's resolution takes 30 times as much as lists
        columns.append(to_columns(row, grid))
        if row.error is not None:
            errors.append(f"{row.photo.path}: {row.error['message']}")
        elif model is None and row.answer is not None:
            model = row.answer["model"]
    schema = make_schema(grid, {METADATA: json.dumps({"schema": SHARD_SCHEMA, "model": model}).encode()})
    file = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(columns, schema), file, compression="zstd")
    return file.getvalue().to_pybytes(), Tally(len(columns), len(errors), errors[0] if errors else "")


def keep_shard(path: Path, content: bytes) -> None:
    """Write the file of a shard. ConfigError: it cannot be written."""
    try:
        write_whole(path, lambda unfinished: unfinished.write_bytes(content))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or first_line(error)}") from None


def write_shard(shard: Shard, rows: Iterable[Row], grid: str) -> Tally:
    """Write the rows of a shard, when all are there. ConfigError: it cannot be written."""
    content, tally = encode_shard(rows, grid)
    keep_shard(shard.path, content)
    return tally


def read_shards(folder: Path) -> Iterator[Row]:
    """Yield the rows of every shard, in the order in which they were written. ConfigError: one cannot be read."""
    for path in _files(folder):
        for columns, model in read_shard(path):
            yield from_columns(columns, model)
