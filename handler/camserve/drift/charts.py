"""The forms of charts that reports draw: curves over time, bars, points, cells and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from time import gmtime, strftime
from typing import Any

import numpy as np

from camserve.drift.theme import HEIGHT, Chart, alt, draw_nothing, resize_chart

Points = Sequence[tuple[float, float]]

TICKS = 5
PERCENT = "~%"  # in d3's words
DAY = 86400.0  # seconds
ONE_SIZE = 110  # square pixels of a point that stands alone
SERIES = 8  # colours that differ clearly


def draw_curves(
    series: Mapping[str, Points],
    title: str,
    *,
    number: str | None = None,
    domain: tuple[float, float] | None = None,
    zero: bool = False,
    alarm: float | None = None,
    log: bool = False,
    nothing: str = "no data",
) -> Chart:
    """Draw curves over time (seconds since 1970) in UTC, with a dashed line at ``alarm``; of one instant, points.

    ``number`` is d3's format of the axis, ``domain`` the ends of their axis; ``nothing`` says why there is none.
    """
    rows = [
        {"time": 1000 * x, "at": format_instant(x), "series": name, "value": y}
        for name, points in series.items()
        for x, y in points
        if math.isfinite(y)
    ]
    if not rows:
        return draw_nothing(nothing)
    if zero and not any(row["value"] for row in rows):
        domain = (0.0, 1.0)  # an axis from 0 to 0 has no ticks
    scale = alt.Scale(type="log" if log else "linear", zero=zero, clamp=log, domain=domain or alt.Undefined)
    written, exact = (".0e", ".2e") if log else (number or alt.Undefined, ".1%" if number == PERCENT else ",.3~r")
    y = alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(format=written, tickCount=TICKS))
    shown = ["at:N", "series:N", alt.Tooltip("value:Q", format=exact, title=title)]
    is_one = len({row["time"] for row in rows}) == 1
    mark = "circle" if is_one else "stroke"
    color = alt.Color("series:N", title=None, sort=None, legend=alt.Legend(symbolType=mark))
    base = alt.Chart(alt.Data(values=rows))
    drawn = base.mark_point(size=ONE_SIZE) if is_one else base.mark_line(point=alt.OverlayMarkDef(size=22))
    x = _series_axis(rows) if is_one else _time_axis(rows)
    layers = [drawn.encode(x=x, y=y, color=color if len(series) > 1 else alt.Undefined, tooltip=shown)]
    if alarm is not None:
        level = alt.Chart(alt.Data(values=[{"value": alarm}])).mark_rule(style="alarm")
        layers.append(level.encode(y=y, tooltip=alt.Tooltip("value:Q", title="alarm")))
    return resize_chart(alt.layer(*layers))


def _series_axis(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the axis of one window, in which each series has a place of its own: points would hide one another."""
    axis = alt.Axis(labels=len({row["series"] for row in rows}) > 1, labelAngle=-30, ticks=False)
    return alt.X("series:N", title=f"one window, {rows[0]['at']} UTC", sort=None, axis=axis)


def _time_axis(rows: Sequence[Mapping[str, Any]]) -> Chart:
    instants = [row["time"] for row in rows]
    written = "%H:%M" if max(instants) - min(instants) <= 1000 * DAY else "%m-%d"
    axis = alt.Axis(tickCount=TICKS, format=written)
    return alt.X("time:T", title="time (UTC)", scale=alt.Scale(type="utc"), axis=axis)


def draw_bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], titles: tuple[str, str]) -> Chart:
    """Draw shares as groups of bars: a group for each label, a colour for each series."""
    rows = [
        {"label": label, "series": name, "value": value}
        for name, values in series.items()
        for label, value in zip(labels, values)
    ]
    bars = alt.Chart(alt.Data(values=rows)).mark_bar()
    drawn = bars.encode(
        x=alt.X("label:N", title=titles[0], sort=None, axis=alt.Axis(labelAngle=-40)),
        xOffset=alt.XOffset("series:N", sort=None),
        y=alt.Y("value:Q", title=titles[1], axis=alt.Axis(format=PERCENT, tickCount=TICKS)),
        color=alt.Color("series:N", title=None, sort=None),
        tooltip=["label:N", "series:N", alt.Tooltip("value:Q", format=".1%", title=titles[1])],
    )
    return resize_chart(drawn)


def draw_points(series: Mapping[str, Points], titles: tuple[str, str]) -> Chart:
    """Draw points of the unit square, y downwards as in pictures; the fewer of a series, the larger."""
    rows = [
        {"x": x, "y": y, "series": name, "size": max(14, 130 // len(points))}
        for name, points in series.items()
        for x, y in points
    ]
    if not rows:
        return draw_nothing()
    unit, axis = alt.Scale(domain=(0, 1)), alt.Axis(format=PERCENT, tickCount=TICKS)
    drawn = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(opacity=0.7)
        .encode(
            x=alt.X("x:Q", title=titles[0], scale=unit, axis=axis),
            y=alt.Y("y:Q", title=titles[1], scale=alt.Scale(domain=(0, 1), reverse=True), axis=axis),
            size=alt.Size("size:Q", scale=None, legend=None),
            color=alt.Color("series:N", title=None, sort=None),
            tooltip=["series:N", alt.Tooltip("x:Q", format=".1%"), alt.Tooltip("y:Q", format=".1%")],
        )
    )
    return resize_chart(drawn)


def draw_cells(
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    titles: tuple[str, str, str],
    *,
    number: str = ",.3~r",
    limits: Mapping[float, str] | None = None,
    write: bool = False,
    nothing: str = "no data",
) -> Chart:
    """Draw (rows, columns) values as coloured cells; NaN stays empty. ``titles``: of columns, rows and values.

    ``limits`` names colours from a value on; ``write`` puts the numbers into the cells.
    """
    found = [
        {"row": rows[row], "column": columns[column], "value": float(values[row, column])}
        for row, column in np.argwhere(np.isfinite(values))
    ]
    if not found:
        return draw_nothing(nothing)
    scale = alt.Undefined
    if limits:
        scale = alt.Scale(type="threshold", domain=list(limits)[1:], range=list(limits.values()))
    x = alt.X("column:O", title=titles[0], sort=None, axis=alt.Axis(labelAngle=0, labelOverlap=True, labelSeparation=8))
    y = alt.Y("row:O", title=titles[1], sort=list(rows))
    shown = ["column:N", "row:N", alt.Tooltip("value:Q", format=number, title=titles[2])]
    base = alt.Chart(alt.Data(values=found)).encode(x=x, y=y, tooltip=shown)
    legend = None if write else alt.Legend(format=number, orient="right", gradientLength=HEIGHT * 3 // 4)
    drawn = base.mark_rect().encode(color=alt.Color("value:Q", title=titles[2], scale=scale, legend=legend))
    if write:
        drawn = base.mark_text().encode(text=alt.Text("value:Q", format=number))
    return resize_chart(drawn, max(HEIGHT, 15 * len(rows)))


def draw_maps(grids: Mapping[str, np.ndarray], side: int = 150) -> Chart:
    """Draw (h, w) maps side by side, with one scale of colours."""
    rows = [
        {"map": name, "row": row, "column": column, "value": float(value)}
        for name, grid in grids.items()
        for (row, column), value in np.ndenumerate(grid)
    ]
    return (
        alt.Chart(alt.Data(values=rows), width=side, height=side)
        .mark_rect()
        .encode(
            x=alt.X("column:O", axis=None),
            y=alt.Y("row:O", axis=None),
            color=alt.Color(
                "value:Q", title="share of the evidence", legend=alt.Legend(format=PERCENT, orient="bottom")
            ),
            column=alt.Column("map:N", title=None, sort=None),
            tooltip=["map:N", "row:O", "column:O", alt.Tooltip("value:Q", format=".2%", title="share of the evidence")],
        )
    )


def format_instant(instant: float) -> str:
    """Write an instant, in seconds since 1970, as UTC date and time."""
    return strftime("%Y-%m-%d %H:%M", gmtime(instant))


def format_briefly(instant: float, span: float) -> str:
    """Write an instant as short as the length of the axis, in seconds, allows."""
    return strftime("%H:%M" if span <= DAY else "%m-%d", gmtime(instant))
