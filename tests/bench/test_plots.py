"""The charts of the benchmarks."""

import xml.etree.ElementTree as Tree

from camserve.bench import plots
from camserve.bench.pairs import Spread


def test_ticks_of_a_log_axis_enclose_the_values():
    assert plots.find_log_ticks(85.0, 2524.0) == [50, 100, 200, 500, 1000, 2000, 5000]
    assert plots.find_log_ticks(100.0, 100.0) == [100]


def test_every_chart_of_the_benchmarks_shows_its_names_and_numbers():
    spread = Spread(2.0, 1.5, 2.5, 3)
    charts = {
        "bars": (plots.plot_bars({"a name": spread, "other": spread}, "a unit", 1.0), ["a name", "a unit", "2"]),
        "curves": (
            plots.plot_curves({"a name": [(1, 2.0), (8, 3.0)]}, ("x words", "y words"), marks=(1, 8), level=1.0),
            ["a name", "x words", "y words", "8"],
        ),
        "log": (
            plots.plot_curves({"a": [(1, 20.0)]}, ("x", "y"), {"a": [(1, 90.0)]}, names=("p50", "p99"), log=True),
            ["p50", "p99", "100"],
        ),
        "stages": (plots.plot_stages({"decode": 2.0, "forward": 30.0}, "ms"), ["decode", "30 ms"]),
    }
    for name, (svg, words) in charts.items():
        drawn = [text.text for text in Tree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert not set(words) - set(drawn), name
