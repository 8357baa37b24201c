"""The pictures of the benchmarks, as SVG files for the docs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from camserve.bench.pairs import Spread
from camserve.drift.chart import (
    ALARM,
    BOTTOM,
    COLORS,
    FAINT,
    INK,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Points,
    frame,
)

PLOT = 170  # pixels of height between the axes
INSET = 12  # pixels between an axis and what is drawn first
ROW = 24  # pixels of one bar
NAMES = 175  # pixels for the names of bars: six a letter
LEGEND_COLUMNS, LEGEND_ROW = 2, 14
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # between ticks, times a power of ten
TICKS = 4
DASHES = ("", ' stroke-dasharray="5 3"')
PAPER = '<rect width="100%" height="100%" fill="#fff"/>'  # docs are read on dark pages too


def bars(values: Mapping[str, Spread], unit: str, level: float | None = None) -> str:
    """Draw medians as lying bars with a whisker between the quartiles; ``level`` is a dashed line."""
    height = TOP + ROW * len(values) + BOTTOM
    most = max(max(each.median, each.high) for each in values.values())
    across = Axis(0.0, most * 1.15, NAMES, WIDTH - RIGHT)
    drawn = [PAPER, text((NAMES + WIDTH - RIGHT) / 2, height - 4, unit, "middle")]
    drawn += [text(across(tick), height - 17, number(tick), "middle") for tick in ticks(0.0, most * 1.15)]
    for at, (name, each) in enumerate(values.items()):
        top = TOP + ROW * at
        middle = top + ROW / 2
        drawn += [
            text(NAMES - 5, middle + 3, name, "end"),
            f'<rect x="{NAMES}" y="{top + 4}" width="{across(each.median) - NAMES:.1f}" height="{ROW - 8}" '
            f'fill="{color(at)}" fill-opacity=".8"/>',
            line(across(each.low), middle, across(each.high), middle, INK),
            text(across(max(each.median, each.high)) + 4, middle + 3, number(each.median)),
        ]
    if level is not None:
        drawn.append(line(across(level), TOP, across(level), height - BOTTOM, ALARM, DASHES[1]))
    return frame(drawn, height)


def curves(
    solid: Mapping[str, Points],
    names: tuple[str, str],
    dashed: Mapping[str, Points] | None = None,
    *,
    marks: Sequence[float] = (),
    level: float | None = None,
    log: bool = False,
) -> str:
    """Draw curves over one axis; those of one name share a colour, and ``level`` is a dashed line.

    Where there are ``marks``, they are the values of x, and stand evenly apart.
    """
    place: Callable[[float], float] = list(marks).index if marks else float
    groups = [
        ({name: [(place(x), y) for x, y in each] for name, each in group.items()}, dash)
        for group, dash in zip((solid, dashed or {}), DASHES)
    ]
    points = [point for group, _ in groups for each in group.values() for point in each]
    across = Axis(0.0, max((x for x, _ in points), default=1.0), LEFT + INSET, WIDTH - RIGHT - INSET)
    up = _axis([y for _, y in points] + ([] if level is None else [level]), TOP + PLOT, TOP, log)
    shown = [(across(at), mark) for at, mark in enumerate(marks)]
    drawn = [PAPER, *_ruled(shown or [(across(tick), tick) for tick in ticks(across.low, across.high)], up, names)]
    if level is not None:
        drawn.append(line(LEFT, up(level), WIDTH - RIGHT, up(level), ALARM, DASHES[1]))
    for group, dash in groups:
        for name, each in group.items():
            drawn += _curve([(across(x), up(y)) for x, y in each], color(list(solid).index(name)), dash)
    below = TOP + PLOT + BOTTOM + 12
    return frame([*drawn, *_legend(list(solid), below)], below + LEGEND_ROW * math.ceil(len(solid) / LEGEND_COLUMNS))


def _axis(values: Sequence[float], start: float, end: float, log: bool) -> Axis:
    least, most = min(values, default=1.0), max(values, default=1.0)
    if log:
        least, most = 10.0 ** math.floor(math.log10(least)), 10.0 ** math.ceil(math.log10(most))
    else:
        step = _step(least, most)
        least, most = math.floor(least / step) * step, math.ceil(most / step) * step
    return Axis(least, most, start, end, log)


def ticks(low: float, high: float) -> list[float]:
    """Return the round numbers between two values, about four."""
    step = _step(low, high)
    return [at * step for at in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _step(low: float, high: float) -> float:
    least = (high - low or 1.0) / TICKS
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(each * power for each in STEPS if each * power >= least * 0.999)


def number(value: float) -> str:
    """Write a value to three digits, or all of a large one."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ruled(marks: Sequence[tuple[float, float]], up: Axis, names: tuple[str, str]) -> list[str]:
    drawn = [text(LEFT, 12, names[1]), text((LEFT + WIDTH - RIGHT) / 2, TOP + PLOT + BOTTOM - 4, names[0], "middle")]
    for tick in up.ticks if up.log else ticks(up.low, up.high):
        drawn += [
            line(LEFT, up(tick), WIDTH - RIGHT, up(tick), FAINT),
            text(LEFT - 5, up(tick) + 3, number(tick), "end"),
        ]
    return drawn + [text(x, TOP + PLOT + 13, number(mark), "middle") for x, mark in marks]


def _curve(points: Points, color: str, dash: str) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = [f'<circle cx="{x}" cy="{y}" r="2.4" fill="{color}"/>' for x, y in points]
    return [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>', *dots]


def _legend(names: Sequence[str], top: float) -> list[str]:
    drawn = []
    for at, name in enumerate(names):
        left = LEFT + at % LEGEND_COLUMNS * (WIDTH - LEFT) / LEGEND_COLUMNS
        row = top + LEGEND_ROW * (at // LEGEND_COLUMNS)
        drawn += [f'<rect x="{left:.1f}" y="{row - 8}" width="8" height="8" fill="{color(at)}"/>']
        drawn.append(text(left + 12, row, name))
    return drawn


def strip(stages: Mapping[str, float], unit: str) -> str:
    """Draw what follows one another in one row, each as long as it takes."""
    height = TOP + 34 + ROW * len(stages)
    across = Axis(0.0, sum(stages.values()), LEFT, WIDTH - RIGHT)
    drawn, start = [PAPER], 0.0
    for at, (name, each) in enumerate(stages.items()):
        left, right, row = across(start), across(start + each), TOP + 40 + ROW * at
        drawn += [
            f'<rect x="{left}" y="{TOP}" width="{max(right - left, 0.5):.1f}" height="22" fill="{color(at)}"/>',
            f'<rect x="{LEFT}" y="{row - 8}" width="10" height="10" fill="{color(at)}"/>',
            text(LEFT + 16, row, f"{name}: {number(each)} {unit}"),
        ]
        start += each
    return frame(drawn, height)


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Write some words."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(left: float, top: float, right: float, bottom: float, color: str, dash: str = "") -> str:
    """Draw a straight line."""
    return f'<line x1="{left}" y1="{top}" x2="{right}" y2="{bottom}" stroke="{color}"{dash}/>'


def color(number: int) -> str:
    """Return the colour of the first, second, ... thing."""
    return (*COLORS, INK)[number % (len(COLORS) + 1)]
