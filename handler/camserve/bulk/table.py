"""The answers of a run as a table: one line a map, or one for a picture that has none."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from camserve.bulk.rows import Answer, Row, warning_codes
from camserve.bulk.words import describe_peak

COLUMNS = (
    *("path", "error", "message", "label", "index", "probability", "value", "unit", "map", "status", "method", "layer"),
    *("evidence", "target", "target_index", "target_probability", "contrast", "scale", "strength", "strongest"),
    "warnings",
)
FORMULAS = "=+-@\t\r"  # as the first character, a spreadsheet would run it


def write_table(rows: Iterable[Row], path: Path) -> int:
    """Write the table as CSV and return its lines; texts that a spreadsheet would run begin with an apostrophe."""
    count = 0
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for line in (line for row in rows for line in table_lines(row)):
            table.writerow({name: _plain(value) for name, value in line.items()})
            count += 1
    return count


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] and value[0] in FORMULAS else value


def table_lines(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the lines of one picture."""
    if row.answer is None:
        error = row.error or {}
        yield {"path": row.photo.path, "error": error.get("code"), "message": error.get("message")}
        return
    best = row.answer["predictions"][0]
    picture = {"path": row.photo.path, **{name: best.get(name) for name in ("label", "index", "probability")}}
    picture.update({name: best.get(name) for name in ("value", "unit")})
    for number in range(max(1, len(row.answer["explanations"]))):
        codes = " ".join(warning_codes(row.answer, number))
        yield {**picture, **_map(row.answer, number), "warnings": codes}


def _map(answer: Answer, number: int) -> dict[str, Any]:
    if not answer["explanations"]:
        return {}
    explanation = answer["explanations"][number]
    target, contrast = explanation["target"], explanation["contrast"] or {}
    return {
        "map": number + 1,
        **{name: explanation[name] for name in ("status", "method", "layer", "evidence", "scale", "strength")},
        "target": target["label"],
        "target_index": target["index"],
        "target_probability": target.get("probability"),
        "contrast": contrast.get("label"),
        "strongest": describe_peak(explanation, answer["input"]),
    }
