"""What an archive's limits come to when they are multiplied out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import psutil

from camserve.intake.decode import most_memory
from camserve.operate.doctor.findings import ADVICE, Finding
from camserve.operate.server import DEFAULT_BYTES
from camserve.settings import Limits

MOST_WAIT = 20.0  # seconds that a request may have to wait behind others
SHARE = 0.5  # of the machine's memory, for pictures


def check_limits(described: Mapping[str, Any], where: str, memory: int | None = None) -> Iterator[Finding]:
    """Yield what the limits of a served model, as the management side describes it, risk on this machine.

    ``memory`` is in bytes; None: this machine's.
    """
    card = described["customizedMetadata"]["limits"]
    limits = Limits(**{field.name: card[field.name] for field in fields(Limits) if field.name in card})
    batch, workers = int(described.get("batchSize", 1)), int(described.get("maxWorkers", 1))
    held = most_memory(limits, batch) * max(1, workers)
    total = memory or psutil.virtual_memory().total
    if held > SHARE * total:
        yield Finding(
            ADVICE,
            where,
            f"pictures of {workers} x {batch} rows may hold {held / 1e9:.1f} GB; the machine has {total / 1e9:.1f} GB",
            "limits: {max_pixels: ..., max_bytes: ...}  or fewer workers",
        )
    if limits.answer_ms and 2 * limits.answer_ms > MOST_WAIT * 1000:
        yield Finding(
            ADVICE,
            where,
            f"a batch may take {limits.answer_ms / 1000:.1f} s, and so may the one before it: a request waits for both",
            "limits: {answer_ms: 2500}  or without the slow methods",
        )
    for name, server in (("max_response_bytes", "max_response_size"), ("max_bytes", "max_request_size")):
        if getattr(limits, name) > DEFAULT_BYTES:
            yield Finding(
                ADVICE,
                where,
                f"limits.{name} is {getattr(limits, name)}, beyond TorchServe's own {server} of {DEFAULT_BYTES}",
                f"{server}={getattr(limits, name) + 100_000}",
            )
