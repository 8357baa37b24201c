"""Rows as the columns of a Parquet file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from camserve.bulk.rows import Answer, Row
from camserve.bulk.sources import Photo
from camserve.drift.run_records import record_of
from camserve.monitor.signals import NAMES

STAGES = ("decode", "preprocess", "forward", "explain", "render", "all")
BALANCE = ("positive", "negative", "share_of_score")
GRIDS = {"uint8": pa.uint8(), "float16": pa.float16()}
PREDICTION = {
    "index": pa.int32(),
    "label": pa.string(),
    "probability": pa.float64(),
    "value": pa.float64(),
    "unit": pa.string(),
    "score": pa.float64(),
}
NAMED = ("status", "method", "layer", "evidence", "compat")
KNOWN = {*NAMED, "target", "contrast", "grid", "scale", "strength", "boxes", "images", "balance"}


def _struct(fields: Mapping[str, pa.DataType]) -> pa.DataType:
    return pa.struct(list(fields.items()))


def make_schema(grid: str, metadata: Mapping[bytes, bytes]) -> pa.Schema:
    """Return the columns of a shard whose maps are of the type ``grid``, one of ``GRIDS``."""
    shown = {
        **dict.fromkeys(NAMED, pa.string()),
        "target": _struct({**PREDICTION, "asked": pa.string()}),
        "contrast": _struct(PREDICTION),
        "rows": pa.int32(),
        "columns": pa.int32(),
        "grid": pa.list_(GRIDS[grid]),
        "zero": pa.float64(),
        "step": pa.float64(),
        "scale": pa.float64(),
        "strength": pa.float64(),
        "boxes": pa.list_(pa.list_(pa.float64())),
        "balance": _struct(dict.fromkeys(BALANCE, pa.float64())),
        "details": pa.string(),
    }
    warning = {"code": pa.string(), "message": pa.string(), "explanation": pa.int32()}
    columns = {
        **dict.fromkeys(("path", "name", "error_code", "error_message", "label"), pa.string()),
        "index": pa.int32(),
        "probability": pa.float64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "region": pa.list_(pa.float64()),
        "head": pa.string(),
        "predictions": pa.list_(_struct(PREDICTION)),
        "maps": pa.list_(_struct(shown)),
        "warnings": pa.list_(_struct(warning)),
        "time": pa.string(),
        "bytes": pa.int64(),
        "sha256": pa.string(),
        "traits": pa.list_(pa.string()),
        "batch": pa.int32(),
        "timing_ms": _struct(dict.fromkeys(STAGES, pa.float64())),
        "signals": _struct(dict.fromkeys(NAMES, pa.float64())),
        "flags": pa.list_(pa.string()),
    }
    return pa.schema(list(columns.items()), dict(metadata))


def to_columns(row: Row, grid: str) -> dict[str, Any]:
    """Return a row of a shard; its texts are what UTF-8 can hold."""
    error = row.error or {}
    found: dict[str, Any] = {
        "path": as_utf8(row.photo.path),
        "name": as_utf8(row.photo.name),
        "error_code": error.get("code"),
        "error_message": error.get("message"),
    }
    if row.answer is not None:
        found.update(_answer_columns(row.answer, grid))
    if (record := row.record) is not None:
        found.update({name: getattr(record, name) for name in ("time", "batch", "timing_ms", "signals", "flags")})
        found.update({name: record.input.get(name) for name in ("bytes", "sha256", "traits")})
    return found


def as_utf8(text: str) -> str:
    """Return a text whose bytes may be no UTF-8, as names of files are, as one that is."""
    return text.encode("utf-8", "backslashreplace").decode()


def _answer_columns(answer: Answer, grid: str) -> dict[str, Any]:
    best = answer["predictions"][0]
    return {
        **{name: best.get(name) for name in ("label", "index", "probability")},
        **answer["input"],
        "head": answer.get("head"),
        "predictions": answer["predictions"],
        "maps": [_map_columns(explanation, grid) for explanation in answer["explanations"]],
        "warnings": answer["warnings"],
    }


def _map_columns(explanation: Mapping[str, Any], grid: str) -> dict[str, Any]:
    details = {name: value for name, value in explanation.items() if name not in KNOWN}
    found = {name: value for name, value in explanation.items() if name in KNOWN and name not in ("grid", "images")}
    if explanation["grid"] is not None:
        values = np.array(explanation["grid"], np.float64)
        found.update(rows=values.shape[0], columns=values.shape[1], **_quantise(values, grid, explanation["evidence"]))
    return {**found, "details": json.dumps(details) if details else None}


def _quantise(values: np.ndarray, grid: str, evidence: str) -> dict[str, Any]:
    """Return a map as levels: (level - zero) * step is the value, and a level stands for zero itself."""
    if grid == "float16":
        return {"grid": values.astype(np.float16).ravel(), "zero": 0.0, "step": 1.0}
    zero, steps = (128, 127) if evidence == "signed" else (0, 255)
    levels = np.rint(np.clip(values, -1 if zero else 0, 1) * steps) + zero
    return {"grid": levels.astype(np.uint8).ravel(), "zero": float(zero), "step": 1 / steps}


def from_columns(columns: Mapping[str, Any], model: Mapping[str, str]) -> Row:
    """Return a row from a shard; its maps are as exact as their levels."""
    photo = Photo(columns["path"], columns["name"])
    record = None if columns["time"] is None else record_of(columns, model)
    if columns["error_code"] is not None:
        error = {"code": columns["error_code"], "message": columns["error_message"]}
        return Row(photo, error=error, record=record)
    answer = {
        "model": dict(model),
        "request_id": columns["path"],
        "input": {name: columns[name] for name in ("width", "height", "format", "region")},
        **({"head": columns["head"]} if columns["head"] else {}),
        "predictions": [_prediction(prediction) for prediction in columns["predictions"]],
        "explanations": [_explanation(shown) for shown in columns["maps"]],
        "warnings": [_present(warning) for warning in columns["warnings"]],
    }
    return Row(photo, answer, record=record)


def _present(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if value is not None}


def _prediction(block: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("value", "unit") if block["probability"] is not None else ("probability",)
    return {name: value for name, value in block.items() if name not in left_out}


def _explanation(shown: Mapping[str, Any]) -> dict[str, Any]:
    grid = None
    if shown["grid"] is not None:
        levels = np.array(shown["grid"], np.float64).reshape(shown["rows"], shown["columns"])
        grid = (np.round((levels - shown["zero"]) * shown["step"], 4) + 0.0).tolist()
    return {
        **{name: shown[name] for name in NAMED if shown[name] is not None},
        "target": _prediction(shown["target"]),
        "contrast": None if shown["contrast"] is None else _prediction(shown["contrast"]),
        "grid": grid,
        **{name: shown[name] for name in ("scale", "strength", "boxes")},
        "images": {},
        "balance": shown["balance"],
        **json.loads(shown["details"] or "{}"),
    }
