"""The records in what camserve explain kept: a run's answers as an audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camserve.errors import ConfigError, first_line
from camserve.monitor.audit_record import OK, SAMPLED, AuditRecord

ANSWERS = "answers.jsonl"  # of a run's folder
SHARDS = "shards"  # a folder in it
OF_A_SERVER = "where a run of camserve explain asked a server, that has them in its own audit log"
SHARD_SCHEMA = 1  # of a run's Parquet files
METADATA = b"camserve"  # the key of their metadata: JSON with schema and model
TOP = 5  # predictions of a record
RECORDED = (
    *("path", "error_code", "time", "bytes", "sha256", "traits", "format", "width", "height", "head", "predictions"),
    *("maps", "timing_ms", "batch", "signals", "flags"),
)


def read_shard_records(path: Path) -> Iterator[AuditRecord]:
    """Yield the record of every row of a shard that an archive was asked about. ConfigError: it is none."""
    for row, model in read_shard(path, RECORDED):
        if row["time"] is not None:
            yield record_of(row, model)


def read_shard(
    path: Path, columns: tuple[str, ...] | None = None
) -> Iterator[tuple[dict[str, Any], Mapping[str, str]]]:
    """Yield the rows of a shard with the model that was asked. ConfigError: it is no shard of this schema."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            block = json.loads((file.schema_arrow.metadata or {}).get(METADATA, b"{}"))
            if block.get("schema") != SHARD_SCHEMA:
                raise ConfigError(f"{path} is no file of camserve explain of schema {SHARD_SCHEMA}")
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    yield row, block.get("model") or {}
    except (OSError, ArrowException, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {first_line(error)}") from None


def record_of(row: Mapping[str, Any], model: Mapping[str, str]) -> AuditRecord:
    """Return the record of one row, as an audit log would hold it."""
    read: dict[str, Any] = {"sha256": row["sha256"], "bytes": row["bytes"]} if row["sha256"] else {}
    answered = row["error_code"] is None
    if answered:
        read.update({name: row[name] for name in ("format", "traits", "width", "height")})
    return AuditRecord(
        time=row["time"],
        request_id=row["path"],
        model=model.get("name", ""),
        version=model.get("version", ""),
        weights=model.get("weights", ""),
        reason=SAMPLED,
        outcome=OK if answered else row["error_code"],
        input=read,
        timing_ms=_known(row["timing_ms"]),
        batch=row["batch"],
        head=row["head"] or "",
        predictions=[_prediction(prediction) for prediction in (row["predictions"] or ())[:TOP]],
        explanations=[
            {
                **{name: shown[name] for name in ("status", "method", "layer")},
                "target": shown["target"]["index"],
            }
            for shown in row["maps"] or ()
        ],
        signals=_known(row["signals"]),
        flags=row["flags"] or (),
    )


def _known(block: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (block or {}).items() if value is not None}


def _prediction(prediction: Mapping[str, Any]) -> dict[str, Any]:
    names = ("probability",) if prediction["probability"] is not None else ("value", "unit")
    return {name: prediction[name] for name in ("index", "label", *names)}
