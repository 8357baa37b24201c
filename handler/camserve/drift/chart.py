"""Pictures for reports as inline SVG: needs no plotting library and no network to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from time import gmtime, strftime

import numpy as np

WIDTH, HEIGHT = 440, 220  # pixels of one picture
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 20, 30  # room around the plot, pixels
INK, FAINT, ALARM = "#333", "#ddd", "#b00020"
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")  # Okabe and Ito 2008
LINE = 14  # pixels from one line of a legend to the next
TICKS = 4
ROOMY = 60  # pixels of a cell's width, from which on its value is written into it
DAY = 86400.0  # seconds

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values beyond the ends stay on them."""
        low, high, here = (self._scale(each) for each in (self.low, self.high, value))
        share = (here - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)

    def _scale(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    @property
    def ticks(self) -> list[float]:
        """Where the axis is labelled."""
        if self.log:
            low, high = math.floor(self._scale(self.low)), math.ceil(self._scale(self.high))
            return [10.0**power for power in range(low, high + 1, max(1, (high - low) // TICKS))]
        return [float(each) for each in np.linspace(self.low, self.high, TICKS + 1 if self.high > self.low else 1)]


def number(value: float) -> str:
    """Write a tick label."""
    return f"{value:.3g}"


def clock(value: float) -> str:
    """Write an instant, in seconds since 1970, as UTC month, day and time."""
    return strftime("%m-%d %H:%M", gmtime(value))


def brief(value: float, span: float) -> str:
    """Write an instant as short as the length of the axis, in seconds, allows."""
    return strftime("%H:%M" if span <= DAY else "%m-%d", gmtime(value))


def lines(
    series: Mapping[str, Points],
    *,
    high: float | None = None,
    low: float | None = None,
    alarm: float | None = None,
    log: bool = False,
) -> str:
    """Draw curves over time (seconds since 1970), with a dashed line at ``alarm``."""
    points = [point for each in series.values() for point in each if math.isfinite(point[1])]
    if not points:
        return frame([_text(WIDTH / 2, HEIGHT / 2, "no data", "middle")])
    levels = [y for _, y in points] + ([] if alarm is None else [alarm])
    bottom = min(levels) if low is None else low
    across = Axis(min(x for x, _ in points), max(x for x, _ in points), LEFT, WIDTH - RIGHT)
    up = Axis(bottom, max(levels) if high is None else high, HEIGHT - BOTTOM, TOP, log)
    drawn = [_grid(across, up, lambda value: brief(value, across.high - across.low))]
    for color, each in zip(COLORS * len(series), series.values()):
        kept = [(across(x), up(y)) for x, y in each if math.isfinite(y)]
        path = " ".join(f"{x},{y}" for x, y in kept)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>')
    if alarm is not None:
        drawn.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(alarm)}" y2="{up(alarm)}" stroke="{ALARM}" '
            f'stroke-dasharray="5 4"/>'
        )
    return _with_legend(drawn, list(series))


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Draw groups of bars: the shares of each bin, one colour a series."""
    top = max((value for each in series.values() for value in each), default=0.0) or 1.0
    up = Axis(0.0, top, HEIGHT - BOTTOM, TOP)
    across = Axis(0.0, float(len(labels)), LEFT, WIDTH - RIGHT)
    drawn = [_grid(None, up, number)]
    width = (across(1) - across(0)) * 0.8 / max(len(series), 1)
    for at, (color, values) in enumerate(zip(COLORS * len(series), series.values())):
        drawn += [
            f'<rect x="{across(bin_) + (at + 0.125) * width:.1f}" y="{up(value)}" width="{width:.1f}" '
            f'height="{HEIGHT - BOTTOM - up(value):.1f}" fill="{color}"><title>{number(value)}</title></rect>'
            for bin_, value in enumerate(values)
        ]
    every = math.ceil(len(labels) / 10)
    drawn += [
        _text(across(at + 0.5), HEIGHT - BOTTOM + 14, label, "middle")
        for at, label in enumerate(labels)
        if not at % every
    ]
    return _with_legend(drawn, list(series))


def scatter(series: Mapping[str, Points], names: tuple[str, str]) -> str:
    """Draw points in the unit square, y downwards as in pictures."""
    across, down = Axis(0.0, 1.0, LEFT, WIDTH - RIGHT), Axis(0.0, 1.0, TOP, HEIGHT - BOTTOM)
    drawn = [_grid(across, down, number), _text(WIDTH / 2, HEIGHT - 6, " / ".join(names), "middle")]
    for color, points in zip(COLORS * len(series), series.values()):
        radius = 2.4 if len(points) > 1 else 6  # one point alone, such as a mean, must be seen among many
        drawn += [
            f'<circle cx="{across(x)}" cy="{down(y)}" r="{radius}" fill="{color}" fill-opacity=".55"/>'
            for x, y in points
        ]
    return _with_legend(drawn, list(series))


def table(rows: Sequence[str], columns: Sequence[str], values: np.ndarray, color: Callable[[float], str]) -> str:
    """Draw (rows, columns) values as a coloured table, with the numbers where there is room; NaN stays empty."""
    height = TOP + BOTTOM + 16 * len(rows)
    wide = 120
    across, down = Axis(0, len(columns), wide, WIDTH - RIGHT), Axis(0, len(rows), TOP, height - BOTTOM)
    cell, tall = (WIDTH - RIGHT - wide) / max(len(columns), 1), (height - TOP - BOTTOM) / max(len(rows), 1)
    drawn = [_text(wide - 4, down(at + 0.75), name, "end") for at, name in enumerate(rows)]
    every = math.ceil(len(columns) / 5)
    drawn += [
        _text(across(at + 0.5), height - BOTTOM + 14, name, "middle")
        for at, name in enumerate(columns)
        if not at % every
    ]
    for row, column in np.argwhere(np.isfinite(values)):
        value = float(values[row, column])
        drawn.append(
            f'<rect x="{across(column)}" y="{down(row)}" width="{cell:.1f}" height="{tall:.1f}" fill="{color(value)}">'
            f"<title>{escape(rows[row])}: {number(value)}</title></rect>"
        )
        if cell >= ROOMY:
            drawn.append(_text(across(column + 0.5), down(row + 0.75), number(value), "middle", halo=True))
    return frame(drawn, height)


def frame(drawn: Sequence[str], height: float = HEIGHT, top: float = 0) -> str:
    """Put a size around what is drawn down to ``height``, from ``top`` on."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {top} {WIDTH} {height - top}" '
        f'width="{WIDTH}" height="{height - top}" '
        f'font-family="sans-serif" font-size="10" fill="{INK}" role="img">{"".join(drawn)}</svg>'
    )


def ramp(share: float) -> str:
    """Return a colour from white (0) to dark blue (1)."""
    kept = min(max(share, 0.0), 1.0)
    return f"rgb({round(255 - 255 * kept)},{round(255 - 141 * kept)},{round(255 - 77 * kept)})"


def _grid(across: Axis | None, up: Axis, write: Callable[[float], str]) -> str:
    drawn = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick)}" y2="{up(tick)}" stroke="{FAINT}"/>'
        + _text(LEFT - 5, up(tick) + 3, number(tick), "end")
        for tick in up.ticks
    ]
    if across is not None:
        drawn += [
            _text(across(tick), HEIGHT - BOTTOM + 14, write(tick), "end" if at == TICKS else "middle")
            for at, tick in enumerate(across.ticks)
        ]
    return "".join(drawn)


def _names(names: Sequence[str], across: Axis, y: float) -> str:
    every = max(1, math.ceil(sum(len(name) + 2 for name in names) * 5.6 / (across.end - across.start)))
    return "".join(_text(across(at + 0.5), y, name, "middle") for at, name in enumerate(names) if not at % every)


def _with_legend(drawn: Sequence[str], names: Sequence[str]) -> str:
    """Put what the colours mean above a plot, in as many lines as that takes."""
    if len(names) < 2:
        return frame(drawn)
    told, left, top = [], float(LEFT), 4
    for color, name in zip(COLORS * len(names), names):
        wide = 20 + 5.6 * len(name)
        if left + wide > WIDTH and left > LEFT:
            left, top = float(LEFT), top - LINE
        told.append(f'<rect x="{left}" y="{top}" width="8" height="8" fill="{color}"/>')
        told.append(_text(left + 11, top + 8, name))
        left += wide
    return frame([*drawn, *told], top=top - 4)


def _text(x: float, y: float, text: str, anchor: str = "start", *, halo: bool = False) -> str:
    readable = ' paint-order="stroke" stroke="white" stroke-width="3" stroke-linejoin="round"' if halo else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{readable}>{escape(text)}</text>'
