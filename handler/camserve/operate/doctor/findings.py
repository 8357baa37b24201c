"""A finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

UNSAFE, ADVICE = "unsafe", "advice"


@dataclass(frozen=True)
class Finding:
    """One thing that should be changed."""

    level: str  # unsafe, advice
    where: str  # a file, or an address
    risk: str
    line: str  # what to write
