"""One look for all charts: Vega-Lite with light and dark colours, as JavaScript for a page, as SVG or as PNG."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

alt: Any = importlib.import_module("altair")  # as Any: its stubs know less than its schema, which checks every chart
vl_convert: Any = importlib.import_module("vl_convert")

Json = dict[str, Any]
Chart = Any  # an altair.Chart, or several of them layered or side by side

HEIGHT = 200  # pixels of a plot
PAPER = "#ffffff"
PADDING = {"left": 24, "right": 16, "top": 10, "bottom": 8}  # a reader's font may be wider than the one measured


def make_theme(dark: bool) -> Json:
    """Return the Vega-Lite config: colours and fonts on a light or a dark page. Colours: Okabe and Ito 2008."""
    ink, faint, alarm = ("#c9d1d9", "#3d444d", "#ff7b72") if dark else ("#24292f", "#d8dee4", "#b00020")
    light = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#3b3b3b"]
    colors = ["#4aa8e8", "#f0b429", "#2fc29a", "#e39ac3", "#9ad4f5", "#ff8f4d", "#a8a8a8", "#f0f3f6"] if dark else light
    ramp = ["#1c2733", "#1f5f8f", "#4aa8e8", "#d6ecfb"] if dark else ["#f1f6fa", "#8fc1e0", "#0072b2", "#00314d"]
    return {
        "background": None,
        "font": "sans-serif",
        "range": {"category": colors, "heatmap": ramp, "ramp": ramp},
        "axis": {
            "labelColor": ink,
            "titleColor": ink,
            "titleFontWeight": "normal",
            "gridColor": faint,
            "domainColor": faint,
            "tickColor": faint,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "labelLimit": 220,
            "titlePadding": 10,
        },
        "legend": {"labelColor": ink, "titleColor": ink, "orient": "bottom", "columns": 3, "columnPadding": 20},
        "header": {"labelColor": ink, "titleColor": ink},
        "view": {"stroke": None},
        "line": {"strokeWidth": 2, "color": colors[0]},
        "point": {"filled": True, "color": colors[0]},
        "bar": {"color": colors[0]},
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": ink},
        "style": {"alarm": {"color": alarm, "strokeDash": [5, 4]}},
    }


def draw_nothing(reason: str = "no data") -> Chart:
    """Say in the place of a chart why there is nothing to draw."""
    return resize_chart(alt.Chart(alt.Data(values=[{"text": reason}])).mark_text(fontSize=13).encode(text="text:N"))


def resize_chart(chart: Chart, height: int = HEIGHT) -> Chart:
    """Give a chart its height, and the width of the page's column."""
    return chart.properties(width="container", height=height)


def make_spec(chart: Chart) -> Json:
    """Return a chart as Vega-Lite without colours and fonts, which the page adds."""
    return {key: value for key, value in chart.to_dict().items() if key not in ("$schema", "config")}


def render_svg(chart: Chart) -> str:
    """Return a chart on white paper, which dark pages need too."""
    return str(vl_convert.vegalite_to_svg(make_spec(chart), **_paper()))


def render_png(chart: Chart, scale: float) -> bytes:
    """Return a chart on white paper; ``scale`` is pixels of the file for one of the chart."""
    return bytes(vl_convert.vegalite_to_png(make_spec(chart), scale=scale, **_paper()))


def _paper() -> Json:
    config = {**make_theme(dark=False), "background": PAPER, "padding": PADDING}
    return {"vl_version": vega_lite_version(), "config": config}


def vega_lite_version() -> str:
    """Return the version of Vega-Lite that Altair writes: 6.4."""
    return ".".join(str(alt.SCHEMA_VERSION).removeprefix("v").split(".")[:2])


@lru_cache(maxsize=1)
def bundle_library() -> str:
    """Return the JavaScript that draws charts: Vega, Vega-Lite and Vega-Embed, which ask for nothing on the network."""
    return str(vl_convert.javascript_bundle(vl_version=vega_lite_version()))
