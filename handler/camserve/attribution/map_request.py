"""The maps that one row asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from camserve.answer.predictions import RowScores
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Terms
from camserve.measures import Measures, MethodMeasure
from camserve.values import ChannelChoice, Explanation, MapSource, Options, Prediction, Target
from camserve.warning_codes import AnswerWarning

NOT_MEASURED = MethodMeasure()
NO_MEASURES = Measures()


@dataclass(frozen=True)
class MapRequest:
    """One map that one row asks for."""

    row: int
    target: Target
    contrast: Prediction | None
    method: str
    source: MapSource
    evidence: str
    details: frozenset[str] = frozenset()
    until: float = math.inf  # time.monotonic() after which no pass is begun for it
    rise: float | None = None  # of the target's score towards the best; None: its strength cannot be said
    measure: MethodMeasure = NOT_MEASURED
    channels: ChannelChoice | None = None  # None: all
    start: int = 0  # the column of the head's first score among those of all heads

    @property
    def terms(self) -> Terms:
        """The classes whose evidence is asked for, each with its sign; a class against itself cancels."""
        sign = -1.0 if self.evidence == "against" else 1.0
        target = (self.start + self.target.prediction.index, sign)
        return (target,) if self.contrast is None else (target, (self.start + self.contrast.index, -sign))

    @property
    def activation(self) -> int | None:
        """The channel whose activation the map is; None: it is a map of evidence."""
        return self.channels.last if self.channels is not None and self.channels.kind == "activation" else None

    def without_map(self, status: str, *warnings: AnswerWarning) -> Explanation:
        """Return the explanation without a map."""
        return Explanation(
            status,
            self.method,
            self.source.name,
            self.evidence,
            self.target,
            self.contrast,
            of_tokens=self.source.of_tokens,
            warnings=warnings,
        )


def map_requests(
    row: int,
    scores: RowScores,
    options: Options,
    source: MapSource,
    until: float = math.inf,
    spare_until: float = math.inf,
    measures: Measures = NO_MEASURES,
    is_usual: bool = True,
) -> list[MapRequest]:
    """Return the maps that one row asks for, read at ``source``; those of slow methods end at ``spare_until`` too.

    ``is_usual`` says whether ``measures`` were made at this source, of this head and context: a strength needs that.
    """
    gap = measures.usual_gap if is_usual else None
    return [
        MapRequest(
            row,
            target,
            scores.contrast(options, target),
            method,
            source,
            METHODS[method].evidence or options.evidence,
            options.details,
            min(until, spare_until) if METHODS[method].slow else until,
            _rise(scores, options, target, gap),
            measures.methods.get(method, NOT_MEASURED),
            options.channels,
            scores.head.start,
        )
        for method in options.methods
        for target in scores.targets(options)
    ]


def _rise(scores: RowScores, options: Options, target: Target, gap: float | None) -> float | None:
    """Return the rise of the target's score; None: no strength is meant, of a part, a contrast, or what is against."""
    is_part = options.contrast is not None or options.channels is not None
    if gap is None or scores.probabilities is None or is_part or options.evidence == "against":
        return None
    return scores.rise(target.prediction.index, gap)
