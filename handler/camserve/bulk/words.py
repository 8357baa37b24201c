"""An answer as lines of text."""

from __future__ import annotations

from typing import Any

import numpy as np

from camserve.answer.caption import word_channels, word_subject
from camserve.answer.respond import word_meaning
from camserve.bulk.rows import Answer, Row


def row_lines(row: Row) -> list[str]:
    """Return the lines that show a row: its answer, or its error."""
    if row.answer is not None:
        return answer_lines(row.photo.path, row.answer)
    return [f"{row.photo.path}: {(row.error or {}).get('message')}"]


def answer_lines(path: str, answer: Answer) -> list[str]:
    """Return the lines that show one answer: its classes, then the peak of each map."""
    lines = [f"{path}, {answer['head']}" if "head" in answer else path]
    lines += [
        f"  {word_meaning(prediction, 4):>7}  {prediction['label']} ({prediction['index']})"
        for prediction in answer["predictions"]
    ]
    for explanation in answer["explanations"]:
        rival = explanation["contrast"]
        subject = word_subject(explanation["target"]["label"], rival and rival["label"])
        peak = describe_peak(explanation, answer["input"])
        question = f"{explanation['method']} {explanation['evidence']} {subject}"
        lines.append(f"  {word_channels(question, explanation.get('of_channels'))}: {peak}")
    lines += [f"  {warning['code']}: {warning['message']}" for warning in answer["warnings"]]
    return lines


def describe_peak(explanation: dict[str, Any], source: dict[str, Any]) -> str:
    """Return where a map is strongest, in pixels of the uploaded picture, or the status of one that is not there."""
    if not explanation.get("grid") or explanation["status"] != "ok":
        return str(explanation["status"])
    grid = np.abs(np.array(explanation["grid"]))
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    left, top, right, bottom = source["region"]
    x = left + (column + 0.5) * (right - left) / grid.shape[1]
    y = top + (row + 0.5) * (bottom - top) / grid.shape[0]
    return f"strongest at x {x:.0f}, y {y:.0f} of {source['width']} x {source['height']}"
