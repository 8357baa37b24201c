"""The outputs that a v2 body may ask for, read from written answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from camserve.answer.respond import write_json
from camserve.errors import BadJson, BadOption
from camserve.serving.engines.tensors import Tensor

Rows = Sequence[Mapping[str, Any]]  # an answer, or a refusal, for each picture


def build_output(name: str, rows: Rows) -> Tensor:
    """Return an output of ``OUTPUTS``. BadJson, BadOption: these answers do not have it."""
    return OUTPUTS[name](name, rows)


def _answers(name: str, rows: Rows) -> Tensor:
    return Tensor(name, "BYTES", (len(rows),), [write_json(row).decode() for row in rows])


def _of_predictions(field: str, datatype: str) -> Callable[[str, Rows], Tensor]:
    """Return what reads a field of each of the top_k predictions, as (N, K)."""
    missing: Any = {"FP32": math.nan, "INT64": -1, "BYTES": ""}[datatype]

    def read(name: str, rows: Rows) -> Tensor:
        predictions = _lists(name, rows, "predictions")
        most = max(map(len, predictions))
        if all(field not in prediction for row in predictions for prediction in row):
            raise BadJson(f"output '{name}': this model's predictions have no {field}: ask for {_other(name)}")
        values = [[row[place][field] if place < len(row) else missing for place in range(most)] for row in predictions]
        flat = [value for row in values for value in row]
        shape = (len(rows), most)
        return Tensor(name, datatype, shape, flat if datatype == "BYTES" else np.array(flat).reshape(shape))

    return read


def _other(name: str) -> str:
    return "values" if name == "probabilities" else "probabilities"


def _grid(name: str, rows: Rows) -> Tensor:
    """Return the maps of each picture, (N, M, h, w)."""
    explanations = _lists(name, rows, "explanations")
    grids = [[explanation["grid"] for explanation in row] for row in explanations]
    shapes = {(len(grid), len(grid[0])) for row in grids for grid in row if grid is not None}
    if len(shapes) > 1:
        raise BadJson(f"output '{name}': the pictures' maps have different sizes: ask for one layer, or for 'answers'")
    height, width = next(iter(shapes), (0, 0))
    values = np.full((len(rows), max(map(len, grids)), height, width), math.nan)
    for number, row in enumerate(grids):
        for place, grid in enumerate(row):
            if grid is not None:
                values[number, place] = grid
    return Tensor(name, "FP32", values.shape, values)


def _scale(name: str, rows: Rows) -> Tensor:
    """Return what each map was divided by, (N, M)."""
    scales = [[explanation["scale"] for explanation in row] for row in _lists(name, rows, "explanations")]
    values = np.full((len(rows), max(map(len, scales))), math.nan)
    for number, row in enumerate(scales):
        values[number, : len(row)] = row
    return Tensor(name, "FP32", values.shape, values)


def _lists(name: str, rows: Rows, key: str) -> list[list[dict[str, Any]]]:
    """Return a list of each row's answer; a refused row has an empty one."""
    if any(key not in row and "error" not in row for row in rows):
        raise BadOption(f"option 'compat': an answer in TorchServe's form has no '{name}': leave one of them out")
    return [row.get(key, []) for row in rows]


OUTPUTS: Mapping[str, Callable[[str, Rows], Tensor]] = {
    "answers": _answers,
    "labels": _of_predictions("label", "BYTES"),
    "indices": _of_predictions("index", "INT64"),
    "probabilities": _of_predictions("probability", "FP32"),
    "values": _of_predictions("value", "FP32"),
    "scores": _of_predictions("score", "FP32"),
    "grid": _grid,
    "scale": _scale,
}
