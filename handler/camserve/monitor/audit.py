"""An audit log: some requests one by one, as signals and hashes, written beside the serving path.

A bounded queue and a thread of its own stand between a request and the disk: a slow or a full disk
costs records, which are counted, and never a request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import queue
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from camserve.choices import JSON_TYPE
from camserve.errors import RequestError
from camserve.monitor.measure import MeasuredRows
from camserve.monitor.recorder import Finished
from camserve.settings import AuditSpec
from camserve.values import Answer, RawRequest

logger = logging.getLogger(__name__)

SCHEMA = 1
QUEUE = 256  # records
FILES = 8  # so many make up ``max_bytes``
FILE_SECONDS = 3600.0
LOW_MARGIN = 0.1  # best minus second probability
TOP = 5  # predictions
THUMBNAIL = 64  # pixels, the longer side
LEVELS = 16  # of a recorded map
EVENT_TYPE = "org.camserve.inference.audit"

Record = dict[str, Any]


class Audit:
    """A recorder that writes a sample of the requests, and some of the telling ones, as JSON lines."""

    def __init__(self, spec: AuditSpec, model: Mapping[str, str], dropped: Callable[[], None]) -> None:
        """Start the writer; ``dropped`` is told of every record that does not reach the disk."""
        self._spec = spec
        self._model = dict(model)
        self._dropped = dropped
        self._queue: queue.Queue[Record | None] = queue.Queue(QUEUE)
        self._minute = 0
        self._spent: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._write_all, name="camserve-audit", daemon=True)
        self._thread.start()

    def record(self, finished: Finished) -> None:
        """Queue what one batch has that is to be recorded."""
        for raw, outcome in zip(finished.rows, finished.outcomes):
            found = finished.find(outcome) if isinstance(outcome, Answer) else None
            if reason := self._reason(raw.request_id, outcome, found):
                record = {**self._base(raw.request_id, reason, outcome), **_input(raw, outcome)}
                record["timing_ms"] = {name: round(each, 3) for name, each in finished.stages.items()}
                record["timing_ms"]["all"] = round(finished.milliseconds, 3)
                record["batch"] = len(finished.rows)
                if isinstance(outcome, Answer):
                    record.update(_answer(outcome, found, self._spec.pictures))
                self._put(record)

    def refused(self, error: RequestError) -> None:
        """Queue a request that was refused before it reached a batch."""
        if self._within_rate("error"):
            self._put(self._base("", "error", error))

    def failed(self) -> None:
        """Nothing: the counters count it."""

    def close(self) -> None:
        """Write what is queued and stop the writer."""
        self._queue.put(None)
        self._thread.join(10)

    def _reason(
        self, request_id: str, outcome: Answer | RequestError, found: tuple[MeasuredRows, int] | None
    ) -> str | None:
        """Return why a request is recorded, if it is. The sample comes first, so that it stays one."""
        if sampled(request_id, self._spec.rate):
            return "sampled"
        kind = "error" if isinstance(outcome, RequestError) else _telling(found)
        return kind if kind and self._within_rate(kind) else None

    def _within_rate(self, kind: str) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._spent = minute, Counter()
        self._spent[kind] += 1
        return self._spent[kind] <= self._spec.per_minute

    def _base(self, request_id: str, reason: str, outcome: Answer | RequestError) -> Record:
        code = "ok" if isinstance(outcome, Answer) else outcome.code
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        base = {"schema": SCHEMA, "time": now, "request_id": request_id, "model": self._model}
        return {**base, "reason": reason, "outcome": code}

    def _put(self, record: Record) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped()

    def _write_all(self) -> None:
        files = _Files(self._spec)
        complained = False
        while (record := self._queue.get()) is not None:
            try:
                files.write(self._line(record))
            except Exception as error:
                self._dropped()
                if not complained:
                    logger.warning("camserve: the audit log cannot be written: %s", error)
                complained = True
        files.close()

    def _line(self, record: Record) -> bytes:
        if self._spec.envelope == "cloudevents":
            record = _event(record)
        return (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()


def sampled(request_id: str, rate: float) -> bool:
    """Decide by its id alone whether a request is in the sample, so that every replica decides alike."""
    digest = hashlib.sha256(request_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < rate * 2**64


def _telling(found: tuple[MeasuredRows, int] | None) -> str | None:
    if found is None:
        return None
    measured, row = found
    for flag in ("blank", "ood"):
        if flag in measured.flags[row]:
            return flag
    return "low_margin" if measured.material.column("margin")[row] < LOW_MARGIN else None


def _input(raw: RawRequest, outcome: Answer | RequestError) -> Record:
    image = _encoded(raw.image)
    told: Record = {"sha256": hashlib.sha256(image).hexdigest(), "bytes": len(image)} if image else {}
    if isinstance(outcome, Answer):
        picture = outcome.request.picture
        told.update(format=picture.format, traits=list(picture.traits), width=picture.width, height=picture.height)
    return {"input": told}


def _encoded(image: object) -> bytes:
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    with suppress(binascii.Error, ValueError):
        return base64.b64decode(str(image or "").rpartition(",")[2])
    return b""


def _answer(answer: Answer, found: tuple[MeasuredRows, int] | None, pictures: bool) -> Record:
    told: Record = {
        "predictions": [
            {"index": each.index, "label": each.label, "probability": round(each.probability, 6)}
            for each in answer.predictions[:TOP]
        ],
        "explanations": [
            {"status": each.status, "method": each.method, "layer": each.layer, "target": each.target.prediction.index}
            for each in answer.explanations
        ],
        "signals": {},
        "flags": [],
    }
    if found is not None:
        measured, row = found
        told["signals"] = {name: float(f"{value:.6g}") for name, value in measured.row(row).items()}
        told["flags"] = list(measured.flags[row])
    if pictures:
        told.update(_pictures(answer))
    return told


def _pictures(answer: Answer) -> Record:
    small = answer.request.picture.image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    small.save(buffer, "JPEG")
    told: Record = {"thumbnail": base64.b64encode(buffer.getvalue()).decode("ascii")}
    grid = next((each.grid for each in answer.explanations if each.grid is not None), None)
    if grid is not None:
        levels = np.round(np.clip(grid, 0, 1) * (LEVELS - 1)).astype(np.uint8)
        told["map"] = {"shape": list(grid.shape), "levels": base64.b64encode(levels.tobytes()).decode("ascii")}
    return told


def _event(record: Record) -> Record:
    """Wrap a record as a CloudEvent 1.0 (https://github.com/cloudevents/spec), like those of KServe's logger."""
    model = record["model"]
    return {
        "specversion": "1.0",
        "id": uuid.uuid4().hex,
        "source": f"/camserve/{model['name']}/{model['version']}",
        "type": EVENT_TYPE,
        "time": record["time"],
        "datacontenttype": JSON_TYPE,
        "data": record,
    }


class _Files:
    """The files of one writer: private, rotated by size and age, the oldest of the folder deleted."""

    def __init__(self, spec: AuditSpec) -> None:
        self._spec = spec
        self._folder = Path(spec.directory)
        self._most = max(1, spec.max_bytes // FILES)
        self._file = -1
        self._path = self._folder
        self._size = 0
        self._opened = 0.0

    def write(self, line: bytes) -> None:
        """Append one line. OSError: it does not fit, or the folder cannot be written."""
        if len(line) > self._most:
            raise OSError(f"a record of {len(line)} bytes does not fit into a file of {self._most}")
        if self._file < 0 or self._size + len(line) > self._most or time.monotonic() - self._opened > FILE_SECONDS:
            self._open()
        if shutil.disk_usage(self._folder).free < self._spec.min_free_bytes:
            raise OSError(f"less than {self._spec.min_free_bytes} bytes are free in {self._folder}")
        written = os.write(self._file, line)
        self._size += written
        if written < len(line):
            self.close()
            raise OSError(f"the disk of {self._folder} is full")

    def close(self) -> None:
        """Close the current file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        self.close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room()
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        self._path = self._folder / f"audit-{os.getpid()}-{now}.jsonl"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size, self._opened = 0, time.monotonic()

    def _make_room(self) -> None:
        """Delete the oldest files until a new one fits below the cap."""
        files = sorted((path.stat().st_mtime, path) for path in self._folder.glob("audit-*.jsonl"))
        total = sum(path.stat().st_size for _, path in files)
        for _, path in files:
            if total + self._most <= self._spec.max_bytes:
                break
            total -= path.stat().st_size
            with suppress(FileNotFoundError):  # another worker was quicker
                path.unlink()
