"""What is measured, and what comes of one photo."""

from __future__ import annotations

from dataclasses import dataclass

from camserve.errors import CamserveError
from camserve.evaluate.measures import USUAL_GROUPS

PLAIN = {"explain": "true", "evidence": "for", "format": "grid", "compat": "none", "details": "none"}


@dataclass(frozen=True)
class Variant:
    """One way to ask for a map."""

    method: str
    layer: str = ""  # "": the archive's default

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.method} at {self.layer}" if self.layer else self.method

    @property
    def fields(self) -> dict[str, str]:
        """The options of a request."""
        return {**PLAIN, "method": self.method, **({"layer": self.layer} if self.layer else {})}


@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured."""

    variants: tuple[Variant, ...]  # the first is what others are compared with
    groups: frozenset[str] = frozenset(USUAL_GROUPS)
    target: str = "label"  # or predicted: the class that is explained
    steps: int = 16  # of deletion and insertion
    seed: int = 0
    attack_class: int | None = None  # that attacks aim at; None: drawn for each photo


@dataclass(frozen=True)
class PhotoMeasures:
    """The measures of one photo under one variant or floor."""

    photo: str
    variant: str
    label: int
    predicted: int
    confidence: float  # the probability of the predicted class
    values: dict[str, float]
    overlaps: dict[str, dict[str, float]]  # box, mask: IoU with the object, by threshold


class PhotoUnanswered(CamserveError):
    """The archive refused a photo, or gave no map."""
