"""An HTML file with interactive charts that needs no network, in the light or the dark colours of its reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

from camserve.drift.theme import Chart, bundle_library, make_spec, make_theme

STYLE = """
:root{color-scheme:light dark;--ink:#24292f;--soft:#59636e;--line:#d8dee4;--paper:#fff;--card:#f6f8fa;--alarm:#fdeaec}
@media(prefers-color-scheme:dark){:root{--ink:#d1d7de;--soft:#9aa4ae;--line:#3d444d;--paper:#0d1117;--card:#151b23;
--alarm:#4a1d22}}
body{font:14px/1.5 system-ui,sans-serif;margin:24px auto;max-width:1440px;padding:0 16px;color:var(--ink);
background:var(--paper)}
h1{font-size:22px;margin:0 0 8px}h2{font-size:17px;border-bottom:1px solid var(--line);margin:32px 0 12px}
p{margin:4px 0}.soft{color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(400px,100%),1fr));gap:14px}
figure{margin:0;border:1px solid var(--line);background:var(--card);padding:10px;border-radius:6px;min-width:0}
figcaption{font-weight:600;font-size:13px;margin-bottom:6px}.chart{width:100%;min-height:220px}
.chart.vega-embed{display:block}.chart.vega-embed summary{opacity:.35}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:3px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
td:first-child,th:first-child,td.text,th.text{text-align:left}tr.alarm td{background:var(--alarm)}
.examples{display:flex;flex-wrap:wrap;gap:14px}.examples img,.no-picture{width:128px;height:128px;display:block}
.no-picture{background:var(--line)}.small{font-size:11px;width:128px;overflow-wrap:anywhere}
#vg-tooltip-element{font:12px system-ui,sans-serif}
"""
# The menu's items that would open a page on the network are left out.
SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const actions = {export: true, source: false, compiled: false, editor: false};
function drawCharts() {
  for (const [id, spec] of Object.entries(CHARTS)) {
    const options = {mode: "vega-lite", renderer: "svg", config: dark.matches ? DARK : LIGHT, actions,
                     tooltip: {theme: dark.matches ? "dark" : "light"}};
    vegaEmbed("#" + id, spec, options);
  }
}
dark.addEventListener("change", drawCharts);
drawCharts();
"""


class ReportPage:
    """An HTML file in the making: its body, and the charts that it shows."""

    def __init__(self, title: str) -> None:
        """Begin empty."""
        self._title = title
        self._body: list[str] = []
        self._specs: dict[str, object] = {}

    def add(self, *parts: str) -> None:
        """Append HTML to the body."""
        self._body += parts

    def add_charts(self, drawn: Mapping[str, Chart]) -> None:
        """Append charts side by side, by their titles."""
        figures = []
        for title, chart in drawn.items():
            name = f"chart{len(self._specs)}"
            self._specs[name] = make_spec(chart)
            head = f"<figcaption>{escape(title)}</figcaption>"
            figures.append(f"<figure>{head}<div class='chart' id='{name}'></div></figure>")
        self.add(f"<div class='charts'>{''.join(figures)}</div>")

    def html(self) -> str:
        """Return the file."""
        values = {"CHARTS": self._specs, "LIGHT": make_theme(dark=False), "DARK": make_theme(dark=True)}
        known = "".join(f"const {name} = {_script_json(value)};\n" for name, value in values.items())
        return (
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width,initial-scale=1'>"
            f"<title>{escape(self._title)}</title><style>{STYLE}</style></head><body>{''.join(self._body)}"
            "<noscript>The charts of this file need JavaScript.</noscript>"
            f"<script id='library'>{bundle_library()}</script><script>{known}{SCRIPT}</script></body></html>\n"
        )


def _script_json(value: object) -> str:
    """Return JSON that cannot end the script it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
