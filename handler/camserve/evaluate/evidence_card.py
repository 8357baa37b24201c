"""The evidence card: what an archive keeps of an evaluation, with a verdict on each map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from camserve.build.mar.pack import add_evaluated
from camserve.drift.periods import holm
from camserve.evaluate.confidence import NOT_CALIBRATED, calibrate_confidence
from camserve.evaluate.frames import FLOORS
from camserve.evaluate.measures import MEASURES
from camserve.evaluate.plan import EvaluationPlan, PhotoMeasures, Variant
from camserve.evaluate.statistics import sign_flip
from camserve.evaluate.summary import SURE, Figure, Summary, paired
from camserve.measures import Evaluated, MethodMeasure
from camserve.values import Progress

PREDICTED = "; maps of the predicted class, right or wrong"
BLIND = "; hardly depends on the classifier's weights"


def make_evidence_card(
    summary: Summary,
    plan: EvaluationPlan,
    by: str,
    measured: Mapping[str, MethodMeasure],
    date: str,
    data: str,
    verdict: str = "",
) -> Evaluated:
    """Return the card of what was measured; ``measured`` is what the build found of each method.

    ``by`` is the measure of the verdicts, ``verdict`` that of the whole; by default the first map's.
    """
    of_predicted = PREDICTED if plan.target == "predicted" else ""
    verdicts = {
        name: words + of_predicted for name, words in judge_variants(summary, plan.variants, by, measured).items()
    }
    figures = {
        measure: {name: _numbers(figure) for name, figure in by_name.items()}
        for measure, by_name in summary.figures.items()
    }
    first = plan.variants[0].name
    words = verdict + of_predicted if verdict else f"{first}: {verdicts.get(first, 'not judged')}"
    how = plan.target, plan.steps, plan.seed
    return Evaluated(date, data, summary.photos, round(summary.accuracy, 4), *how, words, by, verdicts, None, figures)


def keep_evidence_card(
    archive: Path, card: Evaluated, rows: Sequence[PhotoMeasures], defaults: Mapping[str, str], report: Progress
) -> None:
    """Write a card, the limit of LOW_CONFIDENCE that the rows show, and defaults into an archive; report what it is."""
    limit = calibrate_confidence(rows)
    card = replace(card, low_confidence=None if limit is None else limit.below)
    add_evaluated(archive, card, defaults)
    report(f"wrote {archive}, evidence card {card.card_id}")
    report(NOT_CALIBRATED if limit is None else limit.words)


def judge_variants(
    summary: Summary, variants: Sequence[Variant], by: str, measured: Mapping[str, MethodMeasure]
) -> dict[str, str]:
    """Return by the name of a map whether it is better than the best floor, after Holm's correction.

    A map without the measure has none.
    """
    sign, columns = MEASURES[by].is_better, summary.columns.get(by, {})
    floors = {name: sum(values.values()) / len(values) * sign for name, values in columns.items() if name in FLOORS}
    known = [variant for variant in variants if variant.name in columns]
    if not floors:
        return {variant.name: _own(summary, variant, by, measured) for variant in known}
    best = max(floors, key=lambda name: floors[name])
    rises = {variant.name: paired(columns[best], columns[variant.name]) * sign for variant in known}
    chances = dict(zip(rises, holm([sign_flip(rise) for rise in rises.values()])))
    return {
        variant.name: _own(summary, variant, by, measured)
        + f"; {_compare(rises[variant.name].mean(), chances[variant.name])} {best}, which knows nothing"
        for variant in known
    }


def _compare(rise: float, chance: float) -> str:
    if chance >= SURE:
        return "not for sure another than"
    return "better than" if rise > 0 else "worse than"


def _own(summary: Summary, variant: Variant, by: str, measured: Mapping[str, MethodMeasure]) -> str:
    is_blind = not measured.get(variant.method, MethodMeasure()).sane
    return f"{by} {summary.figures[by][variant.name].text.removesuffix(' *')}{BLIND if is_blind else ''}"


def _numbers(figure: Figure) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in (figure.mean, figure.low, figure.high))
