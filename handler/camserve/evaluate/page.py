"""One HTML file of an evaluation: tables, intervals as pictures, and the best and worst photos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from camserve.evaluate.measures import MEASURES
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import PLAIN, Variant
from camserve.evaluate.run import name_of
from camserve.evaluate.summary import Figure, Summary, table
from camserve.serving.pipeline import Pipeline
from camserve.values import RawRequest

STYLE = """
:root{color-scheme:light dark;--line:#8884;--dot:#0969da}
body{font:14px/1.5 system-ui,sans-serif;max-width:1200px;margin:24px auto;padding:0 16px}
h1{font-size:22px}h2{font-size:17px;border-bottom:1px solid var(--line);margin-top:32px}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:3px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
td:first-child,th:first-child{text-align:left}
.flow{display:flex;flex-wrap:wrap;gap:16px}figure{margin:0}figure img{height:180px;display:block}
figcaption{font-size:12px;max-width:260px;overflow-wrap:anywhere}
svg text{font:11px system-ui,sans-serif;fill:currentColor}
"""
SHOWN = 6  # photos at either end
ORDER = ("energy", "insertion", "complexity")  # measures by which photos are sorted, the first that is there
WIDTH, LINE, NAMES = 460, 18, 170  # pixels of a plot: all of it, one variant, the column of names
SIDE = 256  # pixels of an overlay


def render_evaluation(
    summary: Summary, pipeline: Pipeline, photos: Sequence[LabelledPhoto], usual: Variant, title: str
) -> str:
    """Return the page; overlays of the ``usual`` variant are drawn anew."""
    parts = [f"<h1>{escape(title)}</h1>", _facts(summary), "<h2>Figures</h2>", _table(summary)]
    parts += ["<h2>Intervals of 95 %</h2><div class='flow'>"]
    parts += [_plot(measure, figures) for measure, figures in summary.figures.items()]
    parts += ["</div>", *_examples(summary, pipeline, photos, usual)]
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _facts(summary: Summary) -> str:
    words = "".join(
        f"<li><b>{name}</b>: {escape(MEASURES[name].words)} ({escape(MEASURES[name].source)}); "
        f"{'more' if MEASURES[name].is_better > 0 else 'less'} is better</li>"
        for name in summary.figures
    )
    return (
        f"<p>{summary.photos} photos, {summary.accuracy:.1%} predicted right. A star: another mean than the first "
        f"line's, p below .05 after Holm's correction.</p><ul>{words}</ul>"
    )


def _table(summary: Summary) -> str:
    (head, *rows) = table(summary)
    cells = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    cells += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<div class='table'><table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table></div>"


def _plot(measure: str, figures: Mapping[str, Figure]) -> str:
    low, high = min(0.0, *(one.low for one in figures.values())), max(1.0, *(one.high for one in figures.values()))

    def at(value: float) -> float:
        return NAMES + (value - low) / (high - low) * (WIDTH - NAMES - 10)

    lines = [
        f"<text x='0' y='{place + 4}'>{escape(name)}</text>"
        f"<line x1='{at(one.low):.1f}' x2='{at(one.high):.1f}' y1='{place}' y2='{place}' stroke='var(--dot)'/>"
        f"<circle cx='{at(one.mean):.1f}' cy='{place}' r='4' fill='var(--dot)'/>"
        for place, (name, one) in zip(range(LINE, LINE * (len(figures) + 1), LINE), figures.items())
    ]
    height = LINE * (len(figures) + 1)
    ends = (
        f"<text x='{at(low)}' y='{height + 8}'>{low:g}</text><text x='{at(high) - 8}' y='{height + 8}'>{high:g}</text>"
    )
    drawn = f"<svg width='{WIDTH}' height='{height + 12}' role='img'>{''.join(lines)}{ends}</svg>"
    return f"<figure>{drawn}<figcaption>{escape(measure)}</figcaption></figure>"


def _examples(summary: Summary, pipeline: Pipeline, photos: Sequence[LabelledPhoto], usual: Variant) -> list[str]:
    columns = {name: summary.columns[name].get(usual.name) for name in ORDER if name in summary.columns}
    measure, values = next(((name, values) for name, values in columns.items() if values), ("", None))
    if values is None:
        return []
    ranked = sorted(values, key=lambda name: values[name] * MEASURES[measure].is_better, reverse=True)
    known = {name_of(photo): photo for photo in photos}
    parts = []
    for words, names in (("Best", ranked[:SHOWN]), ("Worst", ranked[::-1][:SHOWN])):
        shown = [_example(pipeline, known[name], usual, f"{measure} {values[name]:.2f}") for name in names]
        parts.append(f"<h2>{words} by {escape(measure)}</h2><div class='flow'>{''.join(shown)}</div>")
    return parts


def _example(pipeline: Pipeline, photo: LabelledPhoto, usual: Variant, words: str) -> str:
    fields = {**PLAIN, **usual.fields, "format": "overlay", "target": f"index:{photo.label}"}
    limit = pipeline.settings.limits.max_picture_side
    row = RawRequest(photo.path.read_bytes(), {**fields, "size": str(min(SIDE, limit))})
    answer = json.loads(pipeline.answer([row])[0].body)
    picture = answer["explanations"][0]["images"].get("overlay", "")
    label = pipeline.heads[0].labels[photo.label]
    return (
        f"<figure><img src='{picture}' alt=''><figcaption>{escape(Path(photo.path).name)}: {escape(label)}; "
        f"{escape(words)}</figcaption></figure>"
    )
