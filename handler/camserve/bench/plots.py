"""The charts of the benchmarks, as SVG for the docs."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

from camserve.bench.pairs import Spread
from camserve.drift.charts import TICKS, Points
from camserve.drift.theme import Chart, alt, render_svg

WIDTH, HEIGHT = 420, 220  # pixels of a plot
BAR = 24  # pixels from one bar to the next


def plot_bars(values: Mapping[str, Spread], unit: str, level: float | None = None) -> str:
    """Draw medians as bars with a line between the quartiles; ``level`` is a dashed line."""
    rows = [
        {"name": name, "median": spread.median, "low": spread.low, "high": spread.high, "text": number(spread.median)}
        for name, spread in values.items()
    ]
    most = max(max(spread.median, spread.high) for spread in values.values())
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("name:N", title=None, sort=None),
        x=alt.X("median:Q", title=unit, scale=_room(most), axis=alt.Axis(tickCount=TICKS)),
    )
    ends = base.transform_calculate(end="max(datum.median, datum.high)")
    layers = [
        base.mark_bar(opacity=0.85),
        base.mark_rule().encode(x=alt.X("low:Q", title=unit), x2="high:Q"),
        ends.mark_text(align="left", dx=5).encode(x=alt.X("end:Q", title=unit), text="text:N"),
        *_level("x", level, unit),
    ]
    return render_svg(alt.layer(*layers).properties(width=WIDTH, height=BAR * len(rows)))


def plot_curves(
    solid: Mapping[str, Points],
    titles: tuple[str, str],
    dashed: Mapping[str, Points] | None = None,
    *,
    names: tuple[str, str] = ("", ""),
    marks: Sequence[float] = (),
    level: float | None = None,
    log: bool = False,
) -> str:
    """Draw curves over one axis; those of one name share a colour, and ``level`` is a dashed line.

    ``names`` says what solid and dashed curves are. Where there are ``marks``, they are the values of x, evenly apart.
    """
    groups = [(names[0], solid), (names[1], dashed or {})]
    rows = [
        {"series": name, "style": style, "x": x, "y": y}
        for style, group in groups
        for name, points in group.items()
        for x, y in points
    ]
    values = [y for _, group in groups for points in group.values() for _, y in points] + (
        [] if level is None else [level]
    )
    ticks = find_log_ticks(min(values), max(values)) if log else alt.Undefined
    scale = alt.Scale(type="log", domain=(ticks[0], ticks[-1])) if log else alt.Scale(zero=False, nice=True)
    x_axis = alt.Axis(tickCount=TICKS, labelAngle=0)
    x = alt.X("x:O" if marks else "x:Q", title=titles[0], axis=x_axis, scale=alt.Undefined if marks else alt.Scale())
    y = alt.Y(
        "y:Q", title=titles[1], scale=scale, axis=alt.Axis(values=ticks, tickCount=alt.Undefined if log else TICKS)
    )
    stroke = alt.Legend(symbolType="stroke")
    style = (
        alt.StrokeDash("style:N", title=None, sort=None, legend=alt.Legend(orient="top", symbolType="stroke"))
        if dashed
        else alt.Undefined
    )
    color = alt.Color("series:N", title=None, sort=None, legend=stroke)
    lines = alt.Chart(alt.Data(values=rows)).mark_line(point=alt.OverlayMarkDef(size=28))
    drawn = lines.encode(x=x, y=y, color=color, strokeDash=style)
    return render_svg(alt.layer(drawn, *_level("y", level, titles[1])).properties(width=WIDTH, height=HEIGHT))


def plot_stages(stages: Mapping[str, float], unit: str) -> str:
    """Draw what follows one another as bars, each from where it starts to where it ends."""
    ends = list(itertools.accumulate(stages.values()))
    rows = [
        {"name": name, "start": end - value, "end": end, "text": f"{number(value)} {unit}"}
        for (name, value), end in zip(stages.items(), ends)
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("name:N", title=None, sort=None))
    x = alt.X("start:Q", title=f"time since the request was sent ({unit})", scale=_room(ends[-1]))
    drawn = alt.layer(
        base.mark_bar().encode(x=x, x2="end:Q"),
        base.mark_text(align="left", dx=5).encode(x=alt.X("end:Q"), text="text:N"),
    )
    return render_svg(drawn.properties(width=WIDTH, height=BAR * len(rows)))


def _room(most: float) -> Chart:
    """Return a scale from 0 with room for a number behind the longest bar."""
    return alt.Scale(domain=(0, most * 1.15), nice=False)


def _level(channel: str, value: float | None, title: str) -> Iterator[Chart]:
    if value is not None:
        rule = alt.Chart(alt.Data(values=[{"level": value}])).mark_rule(style="alarm")
        axes = {"x": alt.X("level:Q", title=title), "y": alt.Y("level:Q", title=title)}
        yield rule.encode(axes[channel])


def find_log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten from just below ``low`` to just above ``high``."""
    ticks = [digit * 10.0**power for power in range(-9, 10) for digit in (1, 2, 5)]
    return ticks[bisect_right(ticks, low) - 1 : bisect_left(ticks, high) + 1]


def number(value: float) -> str:
    """Write a value to three digits, or all of a large one."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
