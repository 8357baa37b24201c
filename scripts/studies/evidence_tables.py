"""The tables of docs/evidence.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from attacked_photos import Attacked, Picture, separations
from camserve.drift.records import wilson
from camserve.evaluate.measures import FITS
from camserve.evaluate.plan import PhotoMeasures
from camserve.evaluate.statistics import interval
from camserve.evaluate.summary import Summary, summarise
from camserve.measures import Measures
from strength_measure import Strengths

EARLIER, USUAL = "0.15", "0.2"  # thresholds of boxes
SHOWN_SIGNALS = 4  # signals that tell attacked photos from others best


def write_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def strength_table(strengths: Mapping[str, Strengths], measures: Mapping[str, Measures]) -> str:
    """Return how well a strength tells classes that are in a photo from others."""
    head = ("network", "accuracy", "limit", "absent, warned", "right, warned", "true, missed, warned")
    more = ("AUC: strength", "mass", "maximum", "share", "limit of all photos")
    rows = [
        (
            name,
            f"{found.accuracy:.3f}",
            f"{measures[name].methods['gradcam'].weak_below:.2f}",
            *map(found.warned, ("absent", "right", "missed")),
            *(f"{found.separation(what):.4f}" for what in ("strength", "mass", "scale", "positive")),
            f"{found.limit_of_all:.2f}",
        )
        for name, found in strengths.items()
    ]
    return write_table((*head, *more), rows)


def sanity_table(measures: Mapping[str, Measures]) -> str:
    """Return on what each method's maps depend; a method that a network does not serve has no number there."""
    methods = dict.fromkeys(method for measure in measures.values() for method in measure.methods)
    rows = [(f"`{method}`", *(_sanity(method, measure) for measure in measures.values())) for method in methods]
    return write_table(("method", *measures), rows)


def _sanity(method: str, measures: Measures) -> str:
    measure = measures.methods.get(method)
    if measure is None:
        return ""
    numbers = (measure.random_weights, measure.other_class)
    written = " / ".join("not measured" if number is None else f"{number:.2f}" for number in numbers)
    return written if measure.sane else f"{written} *"


def figure_table(rows: Mapping[str, Sequence[PhotoMeasures]], measures: Sequence[str]) -> str:
    """Return the figures of every map, network by network; the first map of each is what others are compared with."""
    lines = [
        (network, str(found.photos), f"`{variant}`", *(_text(found, measure, variant) for measure in measures))
        for network, found in ((network, summarise(some)) for network, some in rows.items() if some)
        for variant in found.variants
    ]
    return write_table(("network", "photos", "map", *measures), lines)


def _text(summary: Summary, measure: str, variant: str) -> str:
    figure = summary.figures.get(measure, {}).get(variant)
    return "" if figure is None else figure.text


def halves_table(rows: Sequence[PhotoMeasures]) -> str:
    """Return where LayerCAM, Grad-CAM and the centre point, and by how much LayerCAM leads, photo by photo.

    Photos of which one of them has no figure, such as a blank map, are left out.
    """
    measures, maps = ("pointing", "energy"), ("layercam", "gradcam", "centre")
    placed = {(row.photo, row.variant): [row.values.get(measure) for measure in measures] for row in rows}
    everyone = dict.fromkeys(row.photo for row in rows)
    photos = [photo for photo in everyone if all(None not in placed[photo, name] for name in maps)]
    first, *others = (np.array([placed[photo, name] for photo in photos], float) for name in maps)
    lines = [(f"`{maps[0]}`", *map(interval, first.T), *[""] * len(measures))]
    for name, found in zip(maps[1:], others):
        lines.append((f"`{name}`", *map(interval, found.T), *map(interval, (first - found).T)))
    leads = [f"LayerCAM's lead in {measure}" for measure in measures]
    return write_table((f"map, {len(photos)} photos", *measures, *leads), lines)


def box_table(rows: Mapping[str, Sequence[PhotoMeasures]], small: set[str]) -> str:
    """Return for how many objects the first box of the default reaches an IoU of .5; ``small`` names photos."""
    head = ("network", "objects", "photos", "the whole crop", "at 15 %", "at 20 %", "calibrated, on the other half")
    lines = []
    for network, some in rows.items():
        for words, chosen in (("all", list(some)), ("small", [row for row in some if row.photo in small])):
            if not chosen:
                continue
            summary = summarise(chosen)
            method = summary.variants[0]
            fits = [row.overlaps["box"] for row in chosen if row.variant == method and row.overlaps]
            shares = [interval(np.array([fit[at] >= FITS for fit in fits], float)) for at in (EARLIER, USUAL)]
            best = (_text(summary, "box", method), f"{summary.thresholds['box'][method]:.0%}")
            lines.append((network, words, str(len(fits)), _text(summary, "box", "uniform"), *shares, *best))
    return write_table((*head, "threshold"), lines)


def attack_table(rows: Mapping[str, Sequence[Attacked]]) -> str:
    """Return where the maps of the photo's own class point before and after an attack."""
    lines = []
    for network, some in rows.items():
        for method in some[0].before.places:
            places = np.array([[row.before.places[method], row.after.places[method]] for row in some])
            moved = [interval(places[:, side, what]) for what in (0, 1) for side in (0, 1)]
            lost = interval(places[:, 1, 1] - places[:, 0, 1])
            lines.append((network, f"`{method}`", *moved, lost))
    head = ("network", "map", "pointing", "attacked", "energy", "attacked", "energy's change")
    return write_table(head, lines)


def warning_table(rows: Mapping[str, Sequence[Attacked]], aim: int) -> str:
    """Return how often the attack won, and what in the answer could have told."""
    head = ("network", "photos", "taken for the other class", "median probability: before", "after")
    lines = []
    for network, some in rows.items():
        sure = [f"{np.median([getattr(row, side).confidence for row in some]):.3f}" for side in ("before", "after")]
        codes = [_codes([getattr(row, side) for row in some]) for side in ("before", "after")]
        best = sorted(separations(some).items(), key=lambda item: -item[1])[:SHOWN_SIGNALS]
        words = ", ".join(f"{name} {area:.2f}" for name, area in best)
        won = _share([row.after.best == aim for row in some])
        lines.append((network, str(len(some)), won, *sure, *codes, words))
    return write_table((*head, "warnings: before", "after", "signals, by AUC"), lines)


def _codes(pictures: Sequence[Picture]) -> str:
    """Return how many pictures have which warning."""
    counts = Counter(code for picture in pictures for code in set(picture.codes))
    return ", ".join(f"`{code}` {count / len(pictures):.0%}" for code, count in counts.most_common()) or "none"


def _share(flags: Sequence[bool]) -> str:
    low, high = wilson(sum(flags), len(flags))
    return f"{np.mean(flags):.0%} [{low:.0%} {high:.0%}]"
