"""An audit log: some requests one by one, as signals and hashes, written beside the serving path.

A bounded queue and a thread of its own stand between a request and the disk: a slow or a full disk
costs records, which are counted, and never a request.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from io import BytesIO
from typing import Any

from camserve.errors import RequestError
from camserve.monitor.audit_files import AuditFiles
from camserve.monitor.audit_record import OK, SAMPLED, THUMBNAIL, AuditRecord
from camserve.monitor.measure import RowSignals
from camserve.monitor.recorder import Finished
from camserve.settings import AuditSpec
from camserve.values import Answer, RawRequest

logger = logging.getLogger(__name__)

QUEUE = 256  # records
LOW_MARGIN = 0.1  # best minus second probability
TOP = 5  # predictions


class Audit:
    """A recorder that writes a sample of the requests, and some of the unusual ones, as JSON lines."""

    def __init__(self, spec: AuditSpec, model: Mapping[str, str], dropped: Callable[[], None]) -> None:
        """Start the writer; ``dropped`` is called for every record that does not reach the disk."""
        self._spec = spec
        self._model = dict(model)
        self._dropped = dropped
        self._queue: queue.Queue[AuditRecord | None] = queue.Queue(QUEUE)
        self._minute = 0
        self._spent: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._write_all, name="camserve-audit", daemon=True)
        self._thread.start()

    def record(self, finished: Finished) -> None:
        """Queue what one batch has that is to be recorded."""
        for row, outcome, signals in zip(finished.rows, finished.outcomes, finished.signals):
            if reason := self._reason(row.request_id, outcome, signals):
                self._put(describe_row(self._model, row, outcome, signals, reason, finished, self._spec.pictures))

    def refused(self, error: RequestError) -> None:
        """Queue a request that was refused before it reached a batch."""
        if self._within_rate("error"):
            self._put(_start(self._model, "", "error", error))

    def failed(self) -> None:
        """Nothing: the counters count it."""

    def close(self) -> None:
        """Write what is queued and stop the writer."""
        self._queue.put(None)
        self._thread.join(10)

    def _reason(self, request_id: str, outcome: Answer | RequestError, signals: RowSignals | None) -> str | None:
        """Return why a request is recorded, if it is. The sample comes first, so that it stays one."""
        if is_sampled(request_id, self._spec.rate):
            return SAMPLED
        kind = "error" if isinstance(outcome, RequestError) else _unusual(signals)
        return kind if kind and self._within_rate(kind) else None

    def _within_rate(self, kind: str) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._spent = minute, Counter()
        self._spent[kind] += 1
        return self._spent[kind] <= self._spec.per_minute

    def _put(self, record: AuditRecord) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped()

    def _write_all(self) -> None:
        files = AuditFiles(self._spec, self._dropped)
        logged = False
        while (record := self._queue.get()) is not None:
            try:
                files.write(self._line(record))
            except Exception as error:
                self._dropped()
                if not logged:
                    logger.warning("camserve: the audit log cannot be written: %s", error)
                logged = True
        files.close()

    def _line(self, record: AuditRecord) -> bytes:
        block = record.to_event() if self._spec.envelope == "cloudevents" else record.to_json()
        return (json.dumps(block, allow_nan=False, separators=(",", ":")) + "\n").encode()


def describe_row(
    model: Mapping[str, str],
    row: RawRequest,
    outcome: Answer | RequestError,
    signals: RowSignals | None,
    reason: str,
    finished: Finished,
    pictures: bool,
) -> AuditRecord:
    """Return the record of one row of a batch by the ``model`` of these name, version and weights."""
    times = {**finished.stages, "all": finished.milliseconds}
    return dataclasses.replace(
        _start(model, row.request_id, reason, outcome),
        input=_input(row, outcome),
        timing_ms={name: round(milliseconds, 3) for name, milliseconds in times.items()},
        batch=len(finished.rows),
        **(_answer(outcome, signals, pictures) if isinstance(outcome, Answer) else {}),
    )


def _start(model: Mapping[str, str], request_id: str, reason: str, outcome: Answer | RequestError) -> AuditRecord:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    code = OK if isinstance(outcome, Answer) else outcome.code
    name, version, weights = (model[key] for key in ("name", "version", "weights"))
    return AuditRecord(now, request_id, name, version, reason, code, weights)


def is_sampled(request_id: str, rate: float) -> bool:
    """Decide by its id alone whether a request is in the sample, so that every replica decides alike."""
    digest = hashlib.sha256(request_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < rate * 2**64


def _unusual(signals: RowSignals | None) -> str | None:
    if signals is None:
        return None
    for flag in ("blank", "ood"):
        if flag in signals.flags:
            return flag
    return "low_margin" if signals.value("margin") < LOW_MARGIN else None


def _input(row: RawRequest, outcome: Answer | RequestError) -> dict[str, Any]:
    image = _encoded(row.image)
    found: dict[str, Any] = {"sha256": hashlib.sha256(image).hexdigest(), "bytes": len(image)} if image else {}
    if isinstance(outcome, Answer):
        picture = outcome.request.picture
        found.update(format=picture.format, traits=list(picture.traits), width=picture.width, height=picture.height)
    return found


def _encoded(image: object) -> bytes:
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    with suppress(binascii.Error, ValueError):
        return base64.b64decode(str(image or "").rpartition(",")[2])
    return b""


def _answer(answer: Answer, signals: RowSignals | None, pictures: bool) -> dict[str, Any]:
    """Return the fields of an answered request."""
    return {
        "predictions": [
            {"index": best.index, "label": best.label, **best.meaning} for best in answer.predictions[:TOP]
        ],
        "explanations": [
            {
                "status": explanation.status,
                "method": explanation.method,
                "layer": explanation.layer,
                "target": explanation.target.prediction.index,
            }
            for explanation in answer.explanations
        ],
        "signals": {name: float(f"{value:.6g}") for name, value in signals.values().items()} if signals else {},
        "flags": list(signals.flags) if signals else [],
        "head": answer.head if answer.request.options.head else "",
        **(_pictures(answer) if pictures else {}),
    }


def _pictures(answer: Answer) -> dict[str, Any]:
    small = answer.request.picture.image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    small.save(buffer, "JPEG")
    grids = (explanation.grid for explanation in answer.explanations if explanation.grid is not None)
    return {"thumbnail": buffer.getvalue(), "grid": next(grids, None)}
