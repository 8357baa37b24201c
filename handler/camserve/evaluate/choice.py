"""Choosing a map on one half of the photos; its figures are those of the half held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from camserve.errors import ConfigError
from camserve.evaluate.frames import FLOORS
from camserve.evaluate.measures import MEASURES
from camserve.evaluate.plan import PhotoMeasures, Variant
from camserve.evaluate.summary import Figure, Summary, summarise
from camserve.measures import MethodMeasure

LEAST = 20  # photos


@dataclass(frozen=True)
class VariantChoice:
    """The map that won, and why."""

    variant: Variant
    reason: str
    box_threshold: float | None  # None: the photos have no boxes
    held_out: Summary  # the figures of the half that did not choose

    @property
    def defaults(self) -> dict[str, str]:
        """The options to keep, as a recipe's ``defaults`` has them."""
        threshold = {} if self.box_threshold is None else {"box_threshold": f"{self.box_threshold:g}"}
        return {"method": self.variant.method, **threshold}


def choose_variant(
    rows: Iterable[PhotoMeasures], variants: Sequence[Variant], by: str, measured: Mapping[str, MethodMeasure]
) -> VariantChoice:
    """Return the map that is best ``by`` a measure; the first of ``variants`` wins unless another is better for sure.

    Every second photo chooses. What hardly depends on the classifier's weights, by what was ``measured`` when the
    archive was built, cannot win. ConfigError: too few photos, or none has that measure.
    """
    kept = list(rows)
    photos = {name: place for place, name in enumerate(dict.fromkeys(row.photo for row in kept))}
    if len(photos) < LEAST:
        raise ConfigError(f"{len(photos)} photos are too few to choose by: give {LEAST} or more")
    choosing, held_out = (summarise(row for row in kept if photos[row.photo] % 2 == half) for half in (0, 1))
    figures = choosing.figures.get(by)
    if figures is None or by not in held_out.figures:
        raise ConfigError(f"no photo has the measure {by}: measures of place need boxes or masks")
    usual = variants[0]
    if usual.name not in figures:
        raise ConfigError(f"{usual.name} has no measure {by}: its map is too fine; name another first in --methods")
    better = [one for one in variants[1:] if one.name in figures and _is_better(one, usual, figures, by)]
    blind = [one.name for one in better if not measured.get(one.method, MethodMeasure()).sane]
    sane = [one for one in better if one.name not in blind]
    best = max(sane, key=lambda one: figures[one.name].mean * MEASURES[by].is_better, default=usual)
    threshold = choosing.thresholds["box"].get(best.name)
    return VariantChoice(best, _reason(best, usual, by, held_out, blind), threshold, held_out)


def _is_better(one: Variant, usual: Variant, figures: Mapping[str, Figure], by: str) -> bool:
    found = figures[one.name]
    rise = (found.mean - figures[usual.name].mean) * MEASURES[by].is_better
    return found.differs and rise > 0


def _reason(best: Variant, usual: Variant, by: str, held_out: Summary, blind: Sequence[str]) -> str:
    figures = held_out.figures[by]
    floors = {name: figures[name].mean for name in FLOORS if name in figures}
    floor = max(floors, key=lambda name: floors[name] * MEASURES[by].is_better, default="")
    beside = f"; {floor}, which knows nothing, {figures[floor].text}" if floor else ""
    left_out = f"; better, but hardly depending on the class: {', '.join(blind)}" if blind else ""
    own = f"{by} {figures[best.name].text.removesuffix(' *')}"
    if best == usual:
        return f"{usual.name} stays, no other is better for sure: {own}{beside}{left_out}"
    return f"{best.name}: {own}, {usual.name} {figures[usual.name].text}{beside}{left_out}"
