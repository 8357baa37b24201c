"""The answers of a run as lines of JSON, each written when it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from camserve.build.json_lines import append_json_lines, read_json_lines, rewrite_lines
from camserve.build.write_file import remove_unfinished
from camserve.bulk.rows import Row, parse_row

COMMAND = "camserve explain"


def read_journal(path: Path) -> Iterator[Row]:
    """Yield the rows of a journal. ConfigError names the line that is none; a last one that was cut off is left out."""
    for _, row in read_json_lines(path, parse_row, COMMAND):
        yield row


def reopen(path: Path) -> dict[str, str]:
    """Return the name by path of every picture that a journal has an answer to, and leave the others out of it."""
    remove_unfinished(path.parent, path.name)  # its folder is locked
    if not path.exists():
        return {}
    kept: dict[str, str] = {}

    def answered() -> Iterator[str]:
        for line, row in read_json_lines(path, parse_row, COMMAND):
            if row.answer is not None:
                kept[row.photo.path] = row.photo.name
                yield line

    rewrite_lines(path, answered())
    return kept


@contextmanager
def append_rows(path: Path) -> Iterator[Callable[[Row], None]]:
    """Yield what writes a row to the end of a journal at once."""
    with append_json_lines(path) as append:
        yield lambda row: append(row.to_json())
