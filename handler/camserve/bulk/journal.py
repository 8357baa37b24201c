"""The answers of a run as lines of JSON, each written when it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from camserve.build.write_file import remove_unfinished, write_whole
from camserve.bulk.rows import Row, parse_row
from camserve.errors import ConfigError


def read_journal(path: Path) -> Iterator[Row]:
    """Yield the rows of a journal. ConfigError names the line that is none; a last one that was cut off is left out."""
    for _, row in _read_lines(path):
        yield row


def _read_lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return  # the run was ended over it
            try:
                yield line, parse_row(json.loads(line))
            except (ValueError, LookupError, TypeError):
                raise ConfigError(f"{path}, line {number}, is no row of camserve explain") from None


def reopen(path: Path) -> dict[str, str]:
    """Return the name by path of every picture that a journal has an answer to, and leave the others out of it."""
    remove_unfinished(path.parent, path.name)  # its folder is locked
    if not path.exists():
        return {}
    kept: dict[str, str] = {}

    def write(unfinished: Path) -> None:
        with unfinished.open("w", encoding="utf-8") as file:
            for line, row in _read_lines(path):
                if row.answer is not None:
                    kept[row.photo.path] = row.photo.name
                    file.write(line)

    write_whole(path, write)
    return kept


@contextmanager
def append_rows(path: Path) -> Iterator[Callable[[Row], None]]:
    """Yield what writes a row to the end of a journal at once."""
    with path.open("a", encoding="utf-8") as file:
        yield lambda row: _append(file, row)


def _append(file: IO[str], row: Row) -> None:
    file.write(json.dumps(row.to_json(), ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n")
    file.flush()
