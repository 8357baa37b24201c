"""Whose counters, audit records and baseline these are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Version:
    """One version of one served model."""

    model: str
    version: str

    def __str__(self) -> str:
        """Name it as people do."""
        return f"{self.model} {self.version}"
