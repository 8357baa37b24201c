"""A finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

UNSAFE, UNCHECKED, ADVICE = "unsafe", "unchecked", "advice"


@dataclass(frozen=True)
class Finding:
    """One thing that should be changed."""

    level: str  # unsafe, unchecked: it could not be looked at, advice
    where: str  # a file, or an address
    risk: str
    line: str  # what to write
