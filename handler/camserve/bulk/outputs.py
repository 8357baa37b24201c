"""What is written from the answers of a run for people to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from camserve.build.write_file import write_whole
from camserve.bulk.gallery import MOST_CARDS, write_gallery
from camserve.bulk.images import write_images
from camserve.bulk.options import Look
from camserve.bulk.rows import Row
from camserve.bulk.sheet import MOST_CELLS, write_sheet
from camserve.bulk.table import write_table
from camserve.drift.run_records import ANSWERS
from camserve.errors import ConfigError
from camserve.values import Progress

Rows = Callable[[], Iterable[Row]]
Write = Callable[[Rows, Path, Look, Progress], str]


def _images(rows: Rows, out: Path, look: Look, report: Progress) -> str:
    count = write_images(rows(), out / "images", look, report)
    return f"{out / 'images'}: {count} drawn maps"


def _gallery(rows: Rows, out: Path, look: Look, _report: Progress) -> str:
    path = out / "gallery.html"
    return f"{path}: {_first(write_gallery(rows(), path, out.resolve().name, look), MOST_CARDS)} maps"


def _sheet(rows: Rows, out: Path, look: Look, _report: Progress) -> str:
    path = out / "sheet.png"
    return f"{path}: {_first(write_sheet(rows(), path, look), MOST_CELLS)} pictures"


def _first(count: int, most: int) -> str:
    return f"{count}" if count < most else f"the first {count}"


def _csv(rows: Rows, out: Path, _look: Look, _report: Progress) -> str:
    path, counts = out / "answers.csv", []
    write_whole(path, lambda unfinished: counts.append(write_table(rows(), unfinished)))
    return f"{path}: {counts[0]} lines"


def _jsonl(rows: Rows, out: Path, _look: Look, _report: Progress) -> str:
    path, count = out / ANSWERS, 0

    def write(unfinished: Path) -> None:
        nonlocal count
        with unfinished.open("w", encoding="utf-8") as file:
            for row in rows():
                file.write(json.dumps(row.to_json(), allow_nan=False, separators=(",", ":")) + "\n")
                count += 1

    write_whole(path, write)
    return f"{path}: {count} answers"


OUTPUTS: Mapping[str, Write] = {
    "images": _images,
    "gallery": _gallery,
    "sheet": _sheet,
    "csv": _csv,
    "jsonl": _jsonl,
}


def write_outputs(names: Iterable[str], rows: Rows, out: Path, look: Look, report: Progress) -> list[str]:
    """Write what ``names`` of ``OUTPUTS`` ask for into a folder; return a line about each.

    ``rows`` begins anew at each call; ``report`` gets a line for each photo that cannot be drawn. ConfigError: there
    are no rows.
    """
    if next(iter(rows()), None) is None:
        raise ConfigError(f"{out} holds no such pictures: nothing is written")
    return [OUTPUTS[name](rows, out, look, report) for name in OUTPUTS if name in names]
