"""What was measured of an archive's methods and of its int8 network, when it was built."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Optional

from camserve.strict import require_ranges

KEPT = 0.5  # a rank correlation above which a map hardly depends on what was changed
USUAL_DOUBLE_NEGATIVE = 0.3  # of the mass of the positive map, where nothing was measured
MEASURE_RANGES = {
    "usual_mass": (0, math.inf),
    "weak_below": (0, 1),
    "random_weights": (-1, 1),
    "other_class": (-1, 1),
    "double_negative": (0, 1),
}


@dataclass(frozen=True)
class MethodMeasure:
    """One method at the default layer; None: it could not be measured."""

    usual_mass: Optional[float] = None  # of the positive map of a predicted class, its median
    weak_below: Optional[float] = None  # the strength that classes that are not in the picture have less than
    random_weights: Optional[float] = None  # rank correlation with the map of a randomly drawn classifier
    other_class: Optional[float] = None  # rank correlation with the map of a class that is not in the picture
    double_negative: Optional[float] = None  # share of the positive map's mass, its median

    def __post_init__(self) -> None:
        require_ranges(self, MEASURE_RANGES)

    @property
    def sane(self) -> bool:
        """Whether the map changes with the classifier's weights, as far as was measured (Adebayo et al. 2018)."""
        return self.random_weights is None or self.random_weights <= KEPT

    def strength(self, mass: float, rise: float) -> float | None:
        """Return how strong a map is, 0..1, from the mass of its positive part and the ``rise`` of its class's score.

        The geometric mean of two shares: of the usual mass, and of the rise of the predicted class's score.
        """
        return None if not self.usual_mass else math.sqrt(min(1.0, mass / self.usual_mass) * rise)

    def fading(self, strength: float | None) -> float:
        """Return by what a map of this strength is drawn fainter, 0..1; below 1 its evidence is weak."""
        return 1.0 if strength is None or not self.weak_below else min(1.0, strength / self.weak_below)

    @property
    def much_double_negative(self) -> float:
        """The share of double negatives above which a map is unusual."""
        usual = self.double_negative or 0.0
        return max(USUAL_DOUBLE_NEGATIVE, (1 + usual) / 2 if usual > USUAL_DOUBLE_NEGATIVE else 0.0)


@dataclass(frozen=True)
class Evaluated:
    """The evidence card: what labelled photos, which are not part of the archive, said of its maps."""

    date: str = ""  # ISO 8601; "": nothing was measured
    data: str = ""  # the start of the SHA-256 of the photos' names, labels, boxes, masks and sizes
    photos: int = 0
    accuracy: float = 0.0
    target: str = "label"  # or predicted: the class whose maps were measured
    steps: int = 0  # of deletion and insertion
    seed: int = 0  # of draws and noise
    verdict: str = ""  # of the whole
    by: str = ""  # the measure that the verdicts go by
    verdicts: dict[str, str] = field(default_factory=dict)  # map: whether it beats the floors
    low_confidence: Optional[float] = None  # below this probability answers are often wrong; None: too few photos
    figures: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)  # measure: map: mean, low, high

    def __post_init__(self) -> None:
        require_ranges(self, {"low_confidence": (0, 1)})

    @property
    def card_id(self) -> str:
        """The start of the SHA-256 of the whole; "": nothing was measured."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12] if self.date else ""

    def describe(self) -> dict[str, object] | None:
        """Return the card with its id; None: nothing was measured."""
        return {"id": self.card_id, **asdict(self)} if self.date else None


@dataclass(frozen=True)
class Measures:
    """Of the first head at the default layer."""

    photos: int = 0  # that they were made of
    usual_gap: Optional[float] = None  # of the best score to the mean of all others, its median
    methods: dict[str, MethodMeasure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_ranges(self, {"photos": (0, 1_000_000), "usual_gap": (0, math.inf)})


@dataclass(frozen=True)
class Quantised:
    """How an int8 trunk was calibrated, and what it changes on other photos."""

    calibrated_on: int  # photos
    compared_on: int  # photos; 0: none were given, and there are no figures
    top1_agreement: Optional[float] = None  # share of the photos whose best class stays that of float32
    map_correlation: Optional[float] = None  # with the map of float32, at the median photo
    kept: str = ""  # which layers stay in floating point
