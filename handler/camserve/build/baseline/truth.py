"""The true classes of reference photos."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from camserve.errors import CamserveError, ConfigError, quote
from camserve.labels import BY_INDEX, Labels


def read_labels(path: Path, labels: Labels) -> dict[str, int]:
    """Return class indices by file name from a CSV of file and class_index, or of file and label.

    ConfigError: a column is missing, or a class is unknown.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    column = next((name for name in ("class_index", "label") if rows and name in rows[0]), None)
    if column is None or "file" not in rows[0]:
        raise ConfigError(f"{path} must have the columns file and class_index, or file and label")
    return {row["file"]: _class_index(row, column, labels, path) for row in rows}


def _class_index(row: Mapping[str, str], column: str, labels: Labels, path: Path) -> int:
    named = row[column] or ""
    try:
        return labels.find(f"{BY_INDEX}{named}" if column == "class_index" else named)
    except CamserveError as error:
        raise ConfigError(f"{path}: {quote(row['file'])}: {error}") from None
