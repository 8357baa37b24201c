"""One record of the audit log: its fields, and how they are written as JSON and read back."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from camserve.choices import JSON_TYPE

SCHEMA = 1
SAMPLED = "sampled"  # the reason of records from random sampling; only these are representative of all traffic
OK = "ok"  # the outcome of an answered request
THUMBNAIL = 64  # pixels, the longer side
LEVELS = 16  # of a recorded map
EVENT_TYPE = "org.camserve.inference.audit"

Json = dict[str, Any]

ALWAYS = ("reason", "outcome")
IN_A_BATCH = ("input", "timing_ms", "batch")
ANSWERED = ("predictions", "explanations", "signals", "flags")


@dataclass(frozen=True)
class AuditRecord:
    """One audited request. A field without a value stays empty."""

    time: str  # ISO 8601, UTC
    request_id: str
    model: str
    version: str
    reason: str  # SAMPLED, or why it was kept beside the sample
    outcome: str  # OK, or the code of the refusal
    weights: str = ""  # of the model, SHA-256
    # of a request that reached a batch:
    input: Mapping[str, Any] = field(default_factory=dict)  # sha256, bytes, format, traits, width, height
    timing_ms: Mapping[str, float] = field(default_factory=dict)  # of the batch, by stage and as "all"
    batch: int = 0  # rows
    # of an answered request:
    head: str = ""  # the output that was asked, where it is not the default
    predictions: Sequence[Mapping[str, Any]] = ()  # index, label, probability (or value, unit); best first
    explanations: Sequence[Mapping[str, Any]] = ()  # status, method, layer, target
    signals: Mapping[str, float] = field(default_factory=dict)
    flags: Sequence[str] = ()
    thumbnail: bytes = b""  # JPEG
    grid: np.ndarray | None = field(default=None, compare=False)  # (h, w) 0..1, the positive part of the first map

    @cached_property
    def instant(self) -> float:
        """Seconds since 1970."""
        return datetime.fromisoformat(self.time).timestamp()

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The first prediction of the default head; None: another was asked, or there is no answer."""
        return self.predictions[0] if self.predictions and not self.head else None

    @property
    def statuses(self) -> list[str]:
        """The statuses of the explanations."""
        return [explanation["status"] for explanation in self.explanations]

    @property
    def format(self) -> str:
        """The format in which an answered picture was sent."""
        return str(self.input.get("format", ""))

    @property
    def traits(self) -> Sequence[str]:
        """What an answered picture was besides RGB."""
        return tuple(self.input.get("traits", ()))

    def to_json(self) -> Json:
        """Return the record as JSON, with the fields that a request of its kind has."""
        model = {"name": self.model, "version": self.version, "weights": self.weights}
        names = [*ALWAYS, *(IN_A_BATCH if self.batch else ()), *(ANSWERED if self.outcome == OK else ())]
        block = {"schema": SCHEMA, "time": self.time, "request_id": self.request_id, "model": model}
        block.update({name: getattr(self, name) for name in names})
        if self.head:
            block["head"] = self.head
        if self.thumbnail:
            block["thumbnail"] = base64.b64encode(self.thumbnail).decode("ascii")
        if self.grid is not None:
            block["map"] = _encode_map(self.grid)
        return block

    def to_event(self) -> Json:
        """Return the record as a CloudEvent 1.0 (https://github.com/cloudevents/spec), as KServe's logger does."""
        return {
            "specversion": "1.0",
            "id": uuid.uuid4().hex,
            "source": f"/camserve/{self.model}/{self.version}",
            "type": EVENT_TYPE,
            "time": self.time,
            "datacontenttype": JSON_TYPE,
            "data": self.to_json(),
        }


def read_record(block: Mapping[str, Any]) -> AuditRecord:
    """Read a record, plain or as a CloudEvent. LookupError, TypeError, ValueError, AttributeError: it is none."""
    if "specversion" in block:
        block = block["data"]
    if block["schema"] != SCHEMA:
        raise ValueError(f"it is of schema {block['schema']}, not {SCHEMA}")
    model = block["model"]
    datetime.fromisoformat(block["time"])
    return AuditRecord(
        time=block["time"],
        request_id=block["request_id"],
        model=model["name"],
        version=model["version"],
        weights=model.get("weights", ""),
        **{name: block[name] for name in ALWAYS},
        **{name: block[name] for name in (*IN_A_BATCH, *ANSWERED) if name in block},
        head=block.get("head", ""),
        thumbnail=base64.b64decode(block.get("thumbnail", "")),
        grid=_decode_map(block["map"]) if "map" in block else None,
    )


def _encode_map(grid: np.ndarray) -> Json:
    levels = np.round(np.clip(grid, 0, 1) * (LEVELS - 1)).astype(np.uint8)
    return {"shape": list(grid.shape), "levels": base64.b64encode(levels.tobytes()).decode("ascii")}


def _decode_map(block: Mapping[str, Any]) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(block["levels"]), np.uint8).reshape(block["shape"])
    return np.asarray(levels / (LEVELS - 1), np.float32)
