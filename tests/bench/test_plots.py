"""The pictures of the benchmarks."""

import xml.etree.ElementTree as Tree

import pytest

from camserve.bench import plots
from camserve.bench.pairs import Spread
from camserve.bench.workloads import WORKLOADS


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.0, 4.1, [0, 2, 4]), (1.0, 1.3, [1.0, 1.1, 1.2, 1.3]), (0.0, 37.0, [0, 10, 20, 30])],
)
def test_ticks_are_round(low, high, wanted):
    assert plots.ticks(low, high) == pytest.approx(wanted)


def test_bars_are_as_long_as_their_values():
    drawn = Tree.fromstring(plots.bars({"a": Spread(2.0, 2.0, 2.0, 1), "b": Spread(1.0, 1.0, 1.0, 1)}, "x"))
    one, other = (float(bar.get("width")) for bar in drawn.findall(".//{*}rect") if bar.get("fill-opacity"))
    assert one / other == pytest.approx(2, rel=0.01)


def test_the_names_of_all_workloads_fit_beside_their_bars():
    for workload in WORKLOADS:
        assert 6 * len(workload.name) <= plots.NAMES - 5
